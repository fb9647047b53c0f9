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
  /** A statement failed and nothing was committed: COMMIT was not sent, or the server skipped it. */
  | { readonly kind: "refused"; readonly cause: unknown }
  | {
      readonly kind: "ended";
      readonly end: Exclude<SessionEnd, { kind: "committed" | "unconfirmed" }>;
    }
  | {
      readonly kind: "ended";
      readonly end: Extract<SessionEnd, { kind: "committed" | "unconfirmed" }>;
      /** What the statements answered. */
      readonly read: Read;
    };

export interface CarryingSession<Tx> extends SqlSession<Tx> {
  /**
   * Runs the last statements and commits. They must raise an error where nothing may be committed, since COMMIT can be behind them
   * already. Never rejects, and leaves nothing open.
   */
  finish<Read>(
    last: readonly Carried[],
    read: (results: readonly SqlResult[]) => Read,
  ): Promise<Finish<Read>>;
  /**
   * From here on an end that is not the store's is noticed as soon as the server tells of it, and the connection given up: no
   * statement can run behind it, in no transaction. Absent where the driver does not let us see it.
   */
  watchEnd?(): void;
}

export interface Opened<Tx> {
  readonly session: CarryingSession<Tx>;
  /** What the carried statements answered. */
  readonly results: readonly SqlResult[];
}

/** One statement after another, which every session can. */
export async function finishStepwise<Read>(
  session: SqlSession<unknown>,
  last: readonly Carried[],
  read: (results: readonly SqlResult[]) => Read,
): Promise<Finish<Read>> {
  let answer: Read;
  try {
    answer = read(await runAll(session, last));
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
  try {
    return { session, results: await runAll(session, opening) };
  } catch (error) {
    await session.rollback();
    throw error;
  }
}

async function runAll(
  session: SqlSession<unknown>,
  all: readonly Carried[],
): Promise<readonly SqlResult[]> {
  const results: SqlResult[] = [];
  for (const { statement, values } of all) results.push(await session.query(statement, values));
  return results;
}
