/** Reads and clears what the ledger knows of batches whose ids begin alike, for whoever writes a long thing in many of them. */
import type { Pool } from "pg";
import { asSchemaError } from "../stores/connections.js";
import { ownRows } from "../stores/own-types.js";
import { checkSchemaName, statementsFor } from "../stores/sql-text.js";
import type { BatchCounts } from "./description.js";

export interface BatchPrefix {
  readonly pool: Pool;
  /** Schema of oncekey's tables. Default `public`. */
  readonly schema?: string;
  /** The table that the batches went to, as `schema.table`. */
  readonly target: string;
  /** What their ids begin with; it ends with a colon. */
  readonly prefix: string;
}

interface LedgerRow {
  readonly batch_id: string;
  readonly inserted: string;
  readonly updated: string;
  readonly unchanged: string;
  readonly duplicates: string;
}

/** Batches that were committed, with their counts; those that the ledger has forgotten since are missing. */
export async function listBatches(given: BatchPrefix): Promise<ReadonlyMap<string, BatchCounts>> {
  const rows = (await run("batch-list", given)) as readonly LedgerRow[];
  return new Map(
    rows.map((row) => [
      row.batch_id,
      {
        inserted: Number(row.inserted),
        updated: Number(row.updated),
        unchanged: Number(row.unchanged),
        duplicatesInBatch: Number(row.duplicates),
      },
    ]),
  );
}

/** Removes batches from the ledger: their ids are new ones when they come again. Rows of the table stay. */
export async function forgetBatches(given: BatchPrefix): Promise<void> {
  await run("batch-forget", given);
}

async function run(
  name: "batch-list" | "batch-forget",
  { pool, schema = "public", target, prefix }: BatchPrefix,
): Promise<readonly unknown[]> {
  if (!prefix.endsWith(":")) throw new TypeError("prefix must end with a colon");
  const { text } = statementsFor(checkSchemaName(schema))[name];
  // A semicolon comes right behind the colon.
  const beyond = `${prefix.slice(0, -1)};`;
  return ownRows(pool, text, [target, prefix, beyond]).catch((error: unknown) => {
    throw asSchemaError(error);
  });
}
