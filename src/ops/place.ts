/**
 * Where an operator looks: a pool and a schema. Owns: running the read statements there.
 */
import type { Pool, QueryResultRow } from "pg";
import { asSchemaError } from "../stores/connections.js";
import { ownRows } from "../stores/own-types.js";
import { checkSchemaName, statementsFor } from "../stores/sql-text.js";
import type { StatementName } from "../stores/sql-text.js";

export interface OpsPlace {
  readonly pool: Pool;
  /** Schema of the tables. Default `public`. */
  readonly schema?: string;
}

/** @throws `schema_missing` where the tables are not there. */
export async function read<Row extends QueryResultRow>(
  { pool, schema }: OpsPlace,
  name: StatementName,
  values: readonly unknown[],
): Promise<readonly Row[]> {
  const { text } = statementsFor(checkSchemaName(schema ?? "public"))[name];
  return ownRows<Row>(pool, text, values).catch((error: unknown) => {
    throw asSchemaError(error);
  });
}
