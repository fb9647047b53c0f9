/**
 * Transactions of Kysely on its PostgresDialect: `oncekey/kysely`.
 */
import type { Isolation, TransactionAdapter } from "../../core/sql-session.js";
import { heldTransactions, listenForLoss } from "../held-session.js";
import type { AcquiringPool } from "../held-session.js";

export type { SqlSession, TransactionAdapter } from "../../core/sql-session.js";

/** What is used of a `Kysely` instance. */
export interface KyselyTransactor<Tx> {
  transaction(): KyselyTransactionBuilder<Tx>;
}

export interface KyselyTransactionBuilder<Tx> {
  setIsolationLevel(level: Isolation): KyselyTransactionBuilder<Tx>;
  execute(work: (tx: Tx) => Promise<void>): Promise<unknown>;
}

export interface KyselyTransactionsOptions {
  /**
   * The `pg.Pool` of the dialect. Kysely gives the clients it takes no `error` listener, so that a connection lost between two
   * statements of a handler ends the process; with the pool at hand they get one. Not needed where the pool's clients have
   * listeners already.
   */
  readonly pool?: AcquiringPool;
}

interface Executor {
  withoutPlugins(): Executor;
  executeQuery(query: object): Promise<{ rows: unknown[] }>;
}

/**
 * For `idempotent.transaction({ using: kyselyTransactions(db, { pool }) }, (req, res, tx) => …)`: `tx` is Kysely's
 * `Transaction<DB>`. What is written through it commits together with the claim and the response. On the database of the
 * store.
 */
export function kyselyTransactions<Tx extends object>(
  db: KyselyTransactor<Tx>,
  { pool }: KyselyTransactionsOptions = {},
): TransactionAdapter<Tx> {
  if (pool !== undefined) listenForLoss(pool);
  return heldTransactions<Tx>({
    begin: (work, { isolation }) => db.transaction().setIsolationLevel(isolation).execute(work),
    query: async (tx, { name, text }, values) => {
      // Plugins would rename the columns of the answer.
      const { rows } = await (tx as unknown as Executor).withoutPlugins().executeQuery({
        sql: text,
        parameters: [...values],
        query: { kind: "RawNode", sqlFragments: [text], parameters: [] },
        queryId: { queryId: name },
      });
      return { rows, rowCount: rows.length };
    },
  });
}
