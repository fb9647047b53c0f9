/**
 * Transactions of TypeORM on Postgres: `oncekey/typeorm`.
 */
import type { TransactionAdapter } from "../../core/sql-session.js";
import { heldTransactions } from "../held-session.js";

export type { SqlSession, TransactionAdapter } from "../../core/sql-session.js";

/** What is used of a `DataSource`. */
export interface TypeormTransactor<Tx> {
  transaction(isolation: TypeormIsolation, work: (tx: Tx) => Promise<void>): Promise<unknown>;
}

type TypeormIsolation = "READ COMMITTED" | "REPEATABLE READ" | "SERIALIZABLE";

interface Manager {
  readonly queryRunner?: {
    query(
      text: string,
      values: unknown[],
      useStructuredResult: true,
    ): Promise<{ records?: unknown[]; affected?: number | null }>;
  };
}

const isolationLevels = {
  "read committed": "READ COMMITTED",
  "repeatable read": "REPEATABLE READ",
  serializable: "SERIALIZABLE",
} as const;

/**
 * For `idempotent.transaction({ using: typeormTransactions(dataSource) }, (req, res, tx) => …)`: `tx` is the `EntityManager`
 * that TypeORM hands to the callback of `dataSource.transaction`. What is written through it commits together with the claim
 * and the response. On the database of the store.
 */
export function typeormTransactions<Tx extends object>(
  dataSource: TypeormTransactor<Tx>,
): TransactionAdapter<Tx> {
  return heldTransactions<Tx>({
    begin: (work, { isolation }) => dataSource.transaction(isolationLevels[isolation], work),
    query: async (tx, { text }, values) => {
      const { queryRunner } = tx as unknown as Manager;
      if (queryRunner === undefined) throw new Error("TypeORM gave a manager without a connection");
      const { records = [], affected } = await queryRunner.query(text, [...values], true);
      return { rows: records, rowCount: affected ?? records.length };
    },
  });
}
