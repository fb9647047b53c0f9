/**
 * How a transaction is opened on something else than the store's own pool: the port of `idempotent.transaction({ using })`.
 * A session says what its driver said and judges nothing; what a lost reply to COMMIT means is the store's to find out.
 */

/** Isolation levels of Postgres under which a handler can run. */
export type Isolation = "read committed" | "repeatable read" | "serializable";

export const isolations = ["read committed", "repeatable read", "serializable"] as const;

/** What a transaction is opened with. */
export interface SessionSettings {
  readonly isolation: Isolation;
  /** How long opening it, each statement, and ending it may take, in ms. */
  readonly timeoutMs: number;
}

/** A statement of the store, and the name under which a driver may prepare it. */
export interface SqlStatement {
  readonly name: string;
  /** One statement with `$1` in the places of its values. */
  readonly text: string;
}

export interface SqlResult {
  readonly rows: readonly unknown[];
  /** Rows that were returned or changed. */
  readonly rowCount: number | null;
}

/**
 * What a session can say of its end. `unconfirmed`: the driver reported success without the server's tag, and COMMIT of an
 * aborted transaction succeeds as well. `unknown`: the reply was lost.
 */
export type SessionEnd =
  | { readonly kind: "committed" }
  | { readonly kind: "unconfirmed" }
  | { readonly kind: "rolled_back"; readonly cause: unknown }
  | { readonly kind: "unknown"; readonly cause: unknown };

/** One open transaction. */
export interface SqlSession<Tx> {
  /** What the handler works with. */
  readonly tx: Tx;
  /** Runs a statement in the transaction. Rejects with the driver's error, or after the time of its settings. */
  query(statement: SqlStatement, values: readonly unknown[]): Promise<SqlResult>;
  /**
   * Commits. Never rejects: an error that the server sent (one with a SQLSTATE) is `rolled_back`, any other is `unknown`.
   * Nothing is left open, whatever the answer.
   */
  commit(): Promise<SessionEnd>;
  /** Ends the transaction without a trace. Never rejects; does nothing after an end. */
  rollback(): Promise<void>;
}

/**
 * Where transactions of a route come from. They must be on the database of the store, and on its primary: the claim is
 * written through them.
 */
export interface TransactionAdapter<Tx> {
  /** Opens a transaction. Where it rejects, nothing is left open. */
  open(settings: SessionSettings): Promise<SqlSession<Tx>>;
}
