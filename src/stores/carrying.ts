/**
 * Statements of the store that travel with the begin or the end of a transaction. Owns: what is the same whether they go in one
 * write with BEGIN and COMMIT or one after another, on drivers that know no other way.
 */
import type { SessionEnd, SqlResult, SqlSession, SqlStatement } from "../core/sql-session.js";

/** A statement with its values, and the names of its columns in their order, which nobody else tells in one write. */
export interface Carried {
  readonly statement: SqlStatement;
  readonly values: readonly unknown[];
  readonly columns: readonly string[];
}

export type Finish<Read> =
  /** The statement failed and nothing was committed: COMMIT was not sent, or the server skipped it. */
  | { readonly kind: "refused"; readonly cause: unknown }
  | {
      readonly kind: "ended";
      readonly end: Exclude<SessionEnd, { kind: "committed" | "unconfirmed" }>;
    }
  | {
      readonly kind: "ended";
      readonly end: Extract<SessionEnd, { kind: "committed" | "unconfirmed" }>;
      /** What the statement answered. */
      readonly read: Read;
    };

export interface CarryingSession<Tx> extends SqlSession<Tx> {
  /**
   * Runs a last statement and commits. It must raise an error where nothing may be committed, since COMMIT can be behind it
   * already. Never rejects, and leaves nothing open.
   */
  finish<Read>(last: Carried, read: (result: SqlResult) => Read): Promise<Finish<Read>>;
}

export interface Opened<Tx> {
  readonly session: CarryingSession<Tx>;
  /** What the carried statements answered. */
  readonly results: readonly SqlResult[];
}

/** One statement after another, which every session can. */
export async function finishStepwise<Read>(
  session: SqlSession<unknown>,
  { statement, values }: Carried,
  read: (result: SqlResult) => Read,
): Promise<Finish<Read>> {
  let answer: Read;
  try {
    answer = read(await session.query(statement, values));
  } catch (cause) {
    await session.rollback();
    return { kind: "refused", cause };
  }
  const end = await session.commit();
  return end.kind === "committed" || end.kind === "unconfirmed"
    ? { kind: "ended", end, read: answer }
    : { kind: "ended", end };
}

/** Runs what a session was opened for; where that fails, nothing is left open. */
export async function openStepwise<Tx>(
  session: CarryingSession<Tx>,
  opening: readonly Carried[],
): Promise<Opened<Tx>> {
  const results: SqlResult[] = [];
  try {
    for (const { statement, values } of opening)
      results.push(await session.query(statement, values));
    return { session, results };
  } catch (error) {
    await session.rollback();
    throw error;
  }
}
