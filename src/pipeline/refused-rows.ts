/**
 * Which rows of a batch the server refuses: half of the rows at a time, in a transaction that is rolled back. Owns: naming each row that
 * cannot be stored together with those before it. Must never leave anything behind.
 */
import type { WireAnswer, WireStatement } from "../stores/one-write.js";
import { sqlStateOf } from "../stores/sql-state.js";
import { BatchFault } from "./batch-session.js";
import type { BatchSession } from "./batch-session.js";
import type { Places, RowBatch } from "./row-batch.js";
import type { SinkSql } from "./sink-sql.js";

export interface RefusedRow<Row> {
  /** Within its batch. */
  readonly place: number;
  readonly row: Row;
  readonly rowNumber: number;
  readonly column: string | undefined;
  readonly reason: string;
}

export interface Search {
  /** Looks at the table's shape, and throws where it is another one. */
  readonly begun: (shape: WireAnswer | undefined) => void;
  /** Whether an error's state says that a row was at fault. */
  readonly isRowFault: (state: string | undefined) => boolean;
  /** What comes before rows are stored: they may only be storable with what it writes. */
  readonly prepare: ((rows: Places) => Promise<void>) | undefined;
}

/**
 * Halves that are accepted stay, so that a row which clashes with another row of its batch (on a second unique index) is found
 * too: the later one. Where the row that was kept of a key is refused, those that it has beaten are tried as well, up to the
 * first that can be stored.
 */
export async function findRefused<Row extends object>(
  session: BatchSession,
  batch: RowBatch<Row>,
  sql: SinkSql,
  search: Search,
): Promise<readonly RefusedRow<Row>[]> {
  // Deferred constraints would speak up at COMMIT only, when nobody could say which row they mean. The staging table is made here,
  // as it would go with each half that is refused.
  const immediate = ["SET CONSTRAINTS ALL IMMEDIATE", sql.createStaged].map(toStatement);
  const [, shape] = await session.begin([...sql.watch, ...immediate]);
  search.begun(shape);
  const finder = new Finder(session, batch, sql, search);
  await finder.prepare();
  return finder.find();
}

class Finder<Row extends object> {
  readonly #session: BatchSession;
  readonly #batch: RowBatch<Row>;
  readonly #sql: SinkSql;
  readonly #search: Search;
  readonly #refused = new Map<number, RefusedRow<Row>>();
  /** Refused for want of a row that they refer to, which may have come behind them. */
  #lonely = new Set<number>();
  #accepted = 0;

  constructor(session: BatchSession, batch: RowBatch<Row>, sql: SinkSql, search: Search) {
    this.#session = session;
    this.#batch = batch;
    this.#sql = sql;
    this.#search = search;
  }

  /** What the user's statements are refused for is not the rows' fault; the rows are tried without them. */
  async prepare(): Promise<void> {
    const { prepare } = this.#search;
    if (prepare === undefined) return;
    await this.#attempt(async () => {
      await prepare(this.#batch.sorted());
      await this.#session.run([release]);
    });
  }

  async find(): Promise<readonly RefusedRow<Row>[]> {
    await this.#narrow(this.#batch.sorted());
    for (let before = 0; this.#lonely.size > 0 && this.#accepted > before;) {
      before = this.#accepted;
      const lonely = this.#lonely;
      this.#lonely = new Set();
      for (const place of lonely) this.#refused.delete(place);
      await this.#narrow(this.#batch.sorted().filter((place) => lonely.has(place)));
    }
    for (const place of this.#refused.keys()) await this.#tryBeaten(place);
    return [...this.#refused.values()].sort((a, b) => a.rowNumber - b.rowNumber);
  }

  async #narrow(rows: Places): Promise<void> {
    const cause = await this.#store(rows);
    if (cause === undefined) return;
    const [place] = rows;
    if (rows.length === 1 && place !== undefined) {
      this.#refuse(place, cause);
      if (sqlStateOf(cause) === foreignKeyViolation) this.#lonely.add(place);
      return;
    }
    const half = rows.length >> 1;
    await this.#narrow(rows.slice(0, half));
    await this.#narrow(rows.slice(half));
  }

  async #tryBeaten(place: number): Promise<void> {
    for (const beaten of this.#batch.beatenBy(place)) {
      const cause = await this.#store(Int32Array.of(beaten));
      if (cause === undefined) return;
      this.#refuse(beaten, cause);
    }
  }

  #refuse(place: number, cause: unknown): void {
    const [row, rowNumber] = [this.#batch.rowAt(place), this.#batch.numberAt(place)];
    this.#refused.set(place, { place, row, rowNumber, ...describe(cause) });
  }

  /** Undefined where the server takes the rows; they stay then. */
  async #store(rows: Places): Promise<unknown> {
    const { copyStaged, dropTies, insertNew, replace, clearStaged } = this.#sql;
    const cause = await this.#attempt(async () => {
      await this.#session.copy(copyStaged, this.#batch.copyBytes(rows));
      // Only a server knows which of several rows of a key wins, and all of them can be stored.
      const texts = [dropTies, insertNew, replace, clearStaged].filter(
        (text) => text !== undefined,
      );
      await this.#session.run([...texts.map(toStatement), release]);
    });
    if (cause === undefined) this.#accepted += rows.length;
    return cause;
  }

  /** `work` ends with the release. */
  async #attempt(work: () => Promise<void>): Promise<unknown> {
    await this.#session.run([toStatement("SAVEPOINT oncekey_rows")]);
    try {
      await work();
      return undefined;
    } catch (error) {
      const cause = error instanceof BatchFault ? error.cause : error;
      if (!this.#search.isRowFault(sqlStateOf(cause))) throw error;
      // Released too: one that is left open holds all that follow, and each of them a lock in the whole server's table.
      await this.#session.run([toStatement("ROLLBACK TO SAVEPOINT oncekey_rows"), release]);
      return cause;
    }
  }
}

const foreignKeyViolation = "23503";

function toStatement(text: string): WireStatement {
  return { text, values: [] };
}

const release = toStatement("RELEASE SAVEPOINT oncekey_rows");

/** Names that a reason may hold; what else stands in quotation marks is a value. */
const quotedText =
  /((?:relation|table|constraint|column|index|domain|view|policy|function) "[^"]*")|".*"/gs;

/** Values stand in quotation marks, most of them behind a colon, and have no place in a reason. */
function describe(cause: unknown): {
  readonly column: string | undefined;
  readonly reason: string;
} {
  const { column, message } = cause as { readonly column?: unknown; readonly message?: unknown };
  const text = String(message)
    .replaceAll(/: "[^]*$/g, "")
    .replaceAll(quotedText, (_all, name: string | undefined) => name ?? '"…"');
  return {
    column: typeof column === "string" ? column : undefined,
    reason: `The server refuses it (${sqlStateOf(cause) ?? "no state"}): ${text}.`,
  };
}
