/**
 * Transactions of Prisma: `oncekey/prisma`. For clients on a driver adapter (`@prisma/adapter-pg`), whose statements reach
 * Postgres as they are.
 */
import type { TransactionAdapter } from "../../core/sql-session.js";
import { heldTransactions } from "../held-session.js";

export type { SqlSession, TransactionAdapter } from "../../core/sql-session.js";

/** What is used of a `PrismaClient`. */
export interface PrismaTransactor<Tx> {
  $transaction(
    work: (tx: Tx) => Promise<void>,
    options?: { isolationLevel?: PrismaIsolation; maxWait?: number; timeout?: number },
  ): Promise<unknown>;
}

type PrismaIsolation = "ReadCommitted" | "RepeatableRead" | "Serializable";

interface RawQueries {
  $queryRawUnsafe(text: string, ...values: unknown[]): Promise<unknown[]>;
}

const isolationLevels = {
  "read committed": "ReadCommitted",
  "repeatable read": "RepeatableRead",
  serializable: "Serializable",
} as const;

/** Prisma ends a transaction by its own clock; the limits that the store sets at the server should speak first. */
const graceMs = 1_000;

/**
 * For `idempotent.transaction({ using: prismaTransactions(prisma) }, (req, res, tx) => …)`: `tx` is what Prisma hands to the
 * callback of `$transaction`. What is written through it commits together with the claim and the response. Prisma 7 with
 * `@prisma/adapter-pg`, on the database of the store.
 */
export function prismaTransactions<Tx extends object>(
  prisma: PrismaTransactor<Tx>,
): TransactionAdapter<Tx> {
  return heldTransactions<Tx>({
    begin: (work, { isolation, timeoutMs }) =>
      prisma.$transaction(work, {
        isolationLevel: isolationLevels[isolation],
        maxWait: timeoutMs,
        timeout: timeoutMs + graceMs,
      }),
    query: async (tx, { text }, values) => {
      const rows = await (tx as unknown as RawQueries).$queryRawUnsafe(text, ...values);
      return { rows, rowCount: rows.length };
    },
  });
}
