/**
 * Transactions of Knex on pg: `oncekey/knex`.
 */
import type { Isolation, TransactionAdapter } from "../../core/sql-session.js";
import { guarded, heldTransactions } from "../held-session.js";

export type { SqlSession, TransactionAdapter } from "../../core/sql-session.js";

/** What is used of a `Knex` instance. */
export interface KnexTransactor<Tx> {
  transaction(
    work: (tx: Tx) => Promise<void>,
    config?: { isolationLevel?: Isolation },
  ): Promise<unknown>;
}

interface Executor {
  raw(
    text: string,
    bindings: readonly unknown[],
  ): PromiseLike<{ rows: unknown[]; rowCount: number | null }>;
}

/**
 * For `idempotent.transaction({ using: knexTransactions(knex) }, (req, res, tx) => …)`: `tx` is a `Knex.Transaction` that the
 * handler cannot end. What is written through it commits together with the claim and the response. For the client `pg`, on
 * the database of the store.
 */
export function knexTransactions<Tx extends object>(
  knex: KnexTransactor<Tx>,
): TransactionAdapter<Tx> {
  return heldTransactions<Tx>({
    begin: (work, { isolation }) => knex.transaction(work, { isolationLevel: isolation }),
    query: (tx, { text }, values) => {
      const { positions, sql } = toBindings(text);
      const bindings = positions.map((position) => values[position - 1]);
      return Promise.resolve((tx as unknown as Executor).raw(sql, bindings));
    },
    guard: (tx, isEnded) => guarded(tx, isEnded, ["commit", "rollback"]),
  });
}

/** Knex counts question marks: each `$n` becomes one, and its value is given again where it is used again. */
function toBindings(text: string): { readonly sql: string; readonly positions: readonly number[] } {
  const positions: number[] = [];
  const sql = text.replaceAll("?", String.raw`\?`).replaceAll(/\$(\d+)/g, (_match, digits) => {
    positions.push(Number(digits));
    return "?";
  });
  return { sql, positions };
}
