/**
 * The rows that are tried on transaction routes too. Owns: the business row that each handler writes, and what becomes of it.
 */
import type { CaseName } from "./cases.js";
import type { StoreName } from "./stores.js";

/** Stores that have transactions. */
export const transactionStores = ["postgres", "redis"] as const satisfies readonly StoreName[];

export const isTransactional = (mount: string): mount is (typeof transactionStores)[number] =>
  transactionStores.some((name) => name === mount);

/** What is committed with its response and replayed, or rolled back, so that a retry runs again. */
export const transactionRows = {
  json: "committed",
  "send-string": "committed",
  "send-object": "committed",
  "empty-200": "committed",
  "end-body": "committed",
  "many-writes": "committed",
  "implicit-head": "committed",
  "write-head-array": "committed",
  "multi-value": "committed",
  cookies: "committed",
  redirect: "committed",
  "no-content": "committed",
  "pipe-file": "committed",
  throws: "rolled back",
  rejects: "rolled back",
  "next-error": "rolled back",
} as const satisfies Partial<Record<CaseName, "committed" | "rolled back">>;

export type TransactionRow = keyof typeof transactionRows;
export const transactionRowNames = Object.keys(transactionRows) as TransactionRow[];

export const effectsTable = "CREATE TABLE effects (key text NOT NULL)";

/** Writes what must be there once, or not at all. */
export async function writeEffect(
  tx: { query(text: string, values: unknown[]): Promise<unknown> },
  key: unknown,
): Promise<void> {
  await tx.query("INSERT INTO effects VALUES ($1)", [String(key)]);
}

/** In the place of `next`: in a transaction an error is thrown. */
export function rethrow(error?: unknown): void {
  if (error !== undefined) throw error as Error;
}
