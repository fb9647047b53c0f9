/** Removes old rows of the ledger of batches. Owns: how long a batch is remembered. */
import type { Pool } from "pg";
import { asSchemaError } from "../stores/connections.js";
import { ownRows } from "../stores/own-types.js";
import { checkSchemaName, statementsFor } from "../stores/sql-text.js";

const day = 86_400_000;
/** A batch that is tried again after this long was not tried by the process that began it. */
export const defaultKeepBatchesMs = 7 * day;
/** One statement holds its locks only for as long as this many rows take. */
const defaultLimit = 1_000;

export interface ReapBatchesOptions {
  readonly pool: Pool;
  /** Schema of oncekey's tables. Default `public`. */
  readonly schema?: string;
  /** How long batches are remembered, in ms. Default 7 days. */
  readonly keepBatchesMs?: number;
  /** Most rows of one call. Default 1,000. */
  readonly limit?: number;
}

/**
 * Removes batches that were written longer ago than `keepBatchesMs`; answers how many. Sinks do it by themselves, once a minute while
 * they write. A batch id that was removed is a new one when it comes again.
 */
export async function reapBatches({
  pool,
  schema = "public",
  keepBatchesMs = defaultKeepBatchesMs,
  limit = defaultLimit,
}: ReapBatchesOptions): Promise<number> {
  const { text } = statementsFor(checkSchemaName(schema))["batch-reap"];
  const values = [keepBatchesMs, limit];
  const [row] = await ownRows<{ removed: number }>(pool, text, values).catch((error: unknown) => {
    throw asSchemaError(error);
  });
  return (row as { removed: number }).removed;
}
