/**
 * Which rows of a batch the server refuses: half of the rows at a time, in a transaction that is rolled back. Owns: naming each row that
 * cannot be stored together with those before it. Must never leave anything behind.
 */
import { sqlStateOf } from "../stores/sql-state.js";
import { BatchFault } from "./batch-session.js";
import type { BatchSession } from "./batch-session.js";
import type { Places, RowBatch } from "./row-batch.js";
import type { SinkSql } from "./sink-sql.js";
import { stage, upsertStaged } from "./staging.js";

export interface RefusedRow<Row> {
  /** Within its batch. */
  readonly place: number;
  readonly row: Row;
  readonly rowNumber: number;
  readonly column: string | undefined;
  readonly reason: string;
}

/**
 * Halves that are accepted stay, so that a row which clashes with another row of its batch (on a second unique index) is found
 * too: the later one.
 *
 * @param isRowFault whether an error's state says that a row was at fault
 */
export async function findRefused<Row extends object>(
  session: BatchSession,
  sql: SinkSql,
  batch: RowBatch<Row>,
  isRowFault: (state: string | undefined) => boolean,
): Promise<readonly RefusedRow<Row>[]> {
  const refused: RefusedRow<Row>[] = [];
  const attempt = async (rows: Places): Promise<unknown> => {
    try {
      await session.run([{ text: "SAVEPOINT oncekey_rows", values: [] }]);
      await stage(session, sql, batch.copyBytes(rows));
      // Only a server knows which of several rows of a key wins, and all of them can be stored.
      if (sql.dropTies !== undefined) await session.run([{ text: sql.dropTies, values: [] }]);
      await upsertStaged(session, sql);
      const after = [sql.clearStaged, "RELEASE SAVEPOINT oncekey_rows"];
      await session.run(after.map((text) => ({ text, values: [] })));
      return undefined;
    } catch (error) {
      const cause = error instanceof BatchFault ? error.cause : error;
      if (!isRowFault(sqlStateOf(cause))) throw error;
      await session.run([{ text: "ROLLBACK TO SAVEPOINT oncekey_rows", values: [] }]);
      return cause;
    }
  };
  const search = async (rows: Places): Promise<void> => {
    const cause = await attempt(rows);
    if (cause === undefined) return;
    const [place] = rows;
    if (rows.length === 1 && place !== undefined) {
      const [row, rowNumber] = [batch.rowAt(place), batch.numberAt(place)];
      refused.push({ place, row, rowNumber, ...describe(cause) });
      return;
    }
    const half = rows.length >> 1;
    await search(rows.slice(0, half));
    await search(rows.slice(half));
  };
  // Deferred constraints would speak up at COMMIT only, when nobody could say which row they mean.
  await session.begin([{ text: "SET CONSTRAINTS ALL IMMEDIATE", values: [] }]);
  await search(batch.sorted());
  return refused;
}

/** Values stand in quotation marks behind a colon, and have no place in a reason. */
function describe(cause: unknown): {
  readonly column: string | undefined;
  readonly reason: string;
} {
  const { column, message } = cause as { readonly column?: unknown; readonly message?: unknown };
  const text = String(message).replaceAll(/: "[^]*$/g, "");
  return {
    column: typeof column === "string" ? column : undefined,
    reason: `The server refuses it (${sqlStateOf(cause) ?? "no state"}): ${text}.`,
  };
}
