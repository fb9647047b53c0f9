/**
 * Rows in a temporary table, and from there into the sink's table. Owns: the order of these statements, and what the user's own
 * may not do among them.
 */
import { IdempotencyError } from "../core/errors.js";
import type { WireAnswer, WireStatement } from "../stores/one-write.js";
import type { BatchSession } from "./batch-session.js";
import type { SinkBatch } from "./description.js";
import type { SinkSql } from "./sink-sql.js";

export interface StagedCounts {
  readonly inserted: number;
  readonly updated: number;
}

/** Puts rows into the staging table, in their order. */
export async function stage(session: BatchSession, sql: SinkSql, bytes: Buffer): Promise<void> {
  await session.run([{ text: sql.createStaged, values: [] }]);
  await session.copy(sql.copyStaged, bytes);
}

/**
 * Inserts what is new, then replaces what was there. `rows`: how many are staged; where all of them were new there is nothing to
 * replace.
 */
export async function upsertStaged(
  session: BatchSession,
  sql: { readonly insertNew: string | undefined; readonly replace: string | undefined },
  rows = Number.POSITIVE_INFINITY,
): Promise<StagedCounts> {
  let inserted = 0;
  if (sql.insertNew !== undefined) inserted = await count(session, sql.insertNew);
  if (sql.replace === undefined || inserted === rows) return { inserted, updated: 0 };
  return { inserted, updated: await count(session, sql.replace) };
}

async function count(session: BatchSession, text: string): Promise<number> {
  const [answer] = await session.run([{ text, values: [] }]);
  return rowsOf(answer);
}

/** From the server's tag, such as `INSERT 0 5` and `UPDATE 5`. */
function rowsOf(answer: WireAnswer | undefined): number {
  const digits = /(\d+)$/.exec(answer?.tag ?? "")?.[1];
  if (digits === undefined) throw new Error("the server did not say how many rows it wrote");
  return Number(digits);
}

/** The end of the transaction is the sink's, and with it the counts in the ledger. */
const endsTransaction =
  /^\s*(?:begin|start\s+transaction|commit|end|abort|prepare\s+transaction|rollback(?!\s+(?:work\s+|transaction\s+)?to\b))\b/i;

/** Every plan of the session goes by indexes, which is wrong for statements that read whole tables. */
const ownPlans = ["SET LOCAL enable_seqscan TO DEFAULT", "SET LOCAL jit TO DEFAULT"];
const sinkPlans = ["SET LOCAL enable_seqscan TO off", "SET LOCAL jit TO off"];

const toStatements = (texts: readonly string[]): WireStatement[] =>
  texts.map((text) => ({ text, values: [] }));

/** Runs the user's `inTransaction`, with the server's own plans for its statements. */
export async function runGuarded(
  session: BatchSession,
  work: (query: SinkBatch["query"]) => Promise<void>,
): Promise<void> {
  let isEnded = false;
  const query: SinkBatch["query"] = async (text, values = []) => {
    if (isEnded)
      throw new IdempotencyError("transaction_ended", {
        detail: "query was used after its batch.",
      });
    if (typeof text !== "string" || endsTransaction.test(text))
      throw new IdempotencyError("transaction_ended");
    const { rows, rowCount } = await session.query(text, values);
    return { rows: rows as unknown[], rowCount };
  };
  await session.run(toStatements(ownPlans));
  try {
    await work(query);
  } finally {
    isEnded = true;
  }
  await session.run(toStatements(sinkPlans));
}
