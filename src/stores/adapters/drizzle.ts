/**
 * Transactions of Drizzle on node-postgres: `oncekey/drizzle`.
 */
import type { Isolation, TransactionAdapter } from "../../core/sql-session.js";
import { guarded, heldTransactions, listenForLoss } from "../held-session.js";
import type { AcquiringPool } from "../held-session.js";

export type { SqlSession, TransactionAdapter } from "../../core/sql-session.js";

/** What is used of a Drizzle database. */
export interface DrizzleTransactor<Tx> {
  transaction(
    work: (tx: Tx) => Promise<void>,
    config?: { isolationLevel?: Isolation; accessMode?: "read write" },
  ): Promise<unknown>;
}

interface Executor {
  execute(query: { getSQL(): unknown }): PromiseLike<{ rows: unknown[]; rowCount: number | null }>;
}

/**
 * For `idempotent.transaction({ using: drizzleTransactions(db) }, (req, res, tx) => …)`: `tx` is what Drizzle hands to the
 * callback of `db.transaction`. What is written through it commits together with the claim and the response. For
 * `drizzle-orm/node-postgres`, on the database of the store.
 */
export function drizzleTransactions<Tx extends object>(
  db: DrizzleTransactor<Tx>,
): TransactionAdapter<Tx> {
  const pool = poolOf(db);
  if (pool !== undefined) listenForLoss(pool);
  return heldTransactions<Tx>({
    begin: (work, { isolation }) =>
      db.transaction(work, { isolationLevel: isolation, accessMode: "read write" }),
    query: async (tx, { text }, values) => {
      const query = { sql: text, params: [...values] };
      // What `sql` makes is an object that says its query when it is asked; this one says it without importing Drizzle.
      return await (tx as unknown as Executor).execute({
        getSQL: () => ({ toQuery: () => query }),
      });
    },
    // Its connection goes back to the pool at the end and would still take statements, in nobody's transaction.
    guard: (tx, isEnded) => guarded(tx, isEnded),
  });
}

/** The pool under a database; `$primary` where replicas stand beside it. */
function poolOf(db: object): AcquiringPool | undefined {
  const { $client, $primary } = db as { $client?: unknown; $primary?: { $client?: unknown } };
  const client = ($client ?? $primary?.$client) as Partial<AcquiringPool> | undefined;
  return typeof client?.on === "function" ? (client as AcquiringPool) : undefined;
}
