/**
 * Aggregates that are replaced and never added to: a row for each key and day is computed anew from all its events. Owns: the order
 * of lock, snapshot and marks that makes this right while events keep arriving. Never decides when; a worker or a caller does.
 */
import { isSafeNumber, parse } from "lossless-json";
import type { Pool, PoolClient } from "pg";
import { IdempotencyError } from "../core/errors.js";
import { asSchemaError } from "../stores/connections.js";
import { ownRows } from "../stores/own-types.js";
import { lockHash } from "../stores/rows.js";
import { sqlStateOf } from "../stores/sql-state.js";
import { checkSchemaName, quoteIdentifier, quoteTable, statementsFor } from "../stores/sql-text.js";
import type { Statements } from "../stores/sql-text.js";
import { resolveAggregate } from "./aggregate-options.js";
import type {
  AggregateKey,
  AggregateOptions,
  BackfillOptions,
  RecomputeCounts,
  ResolvedAggregate,
  TimeZoneChange,
} from "./aggregate-options.js";
import { aggregateSql, triggerNames } from "./aggregate-sql.js";
import type { AggregateSql } from "./aggregate-sql.js";

/** The verbs of one aggregate. Any number of processes may use them at once. */
export interface Aggregate {
  /** The target table, by which it is called in oncekey's own tables. */
  readonly name: string;
  /**
   * Puts triggers on the table of events that mark keys in the transaction of whatever writes there: of both the old and the new
   * key where an event is overwritten. To be run at each deploy, as `oncekey migrate`; does nothing where they are there. Events
   * from before the first time are not marked: run `backfill` once.
   */
  prepare(): Promise<void>;
  /** Computes these keys now, waiting for others who do. When it resolves they hold every event committed before the call. */
  recompute(keys: readonly AggregateKey[]): Promise<RecomputeCounts>;
  /**
   * Computes marked keys that nobody else computes, some thousands in one transaction. `hasMore`: another pass may find some.
   */
  recomputeMarked(): Promise<RecomputeCounts & { readonly hasMore: boolean }>;
  /** Keys that are marked now: with these values, between these days. */
  marked(
    filter?: Partial<Pick<BackfillOptions, "from" | "to" | "where">>,
  ): Promise<readonly AggregateKey[]>;
  /**
   * Computes every key of a range of days, marked or not: after a fault in the events or in the description. Events may keep
   * arriving; what arrives behind its back is marked.
   */
  backfill(options: BackfillOptions): Promise<RecomputeCounts>;
  /**
   * Runs a change of the table of time zones, and marks all days of the keys in question in the same transaction. Writers of events
   * wait until it has committed.
   */
  changeTimeZone(where: AggregateKey, change: TimeZoneChange): Promise<void>;
}

/** Marks that a pass looks at to find keys. */
const marksPerPass = 50_000;

/**
 * Makes the verbs of an aggregate. Opens nothing.
 *
 * A recompute locks its keys first and takes its snapshot then, so that two of them never write an older result over a newer one.
 * It deletes the marks that its snapshot shows and no others: what is committed later stays marked. Neither late events nor a
 * crash at any point can leave a row behind that is wrong and not marked.
 *
 * @throws `options_invalid` that lists every problem at once.
 */
export function recomputeAggregate(given: AggregateOptions): Aggregate {
  return new PostgresAggregate(resolveAggregate(given));
}

class PostgresAggregate implements Aggregate {
  readonly name: string;
  readonly #options: ResolvedAggregate;
  readonly #statements: Statements;
  readonly #columns: readonly string[];
  readonly #lockHash: string;
  #sql: Promise<AggregateSql> | undefined;

  constructor(options: ResolvedAggregate) {
    this.name = options.target;
    this.#options = options;
    this.#statements = statementsFor(checkSchemaName(options.schema));
    this.#columns = [...options.key, options.day.column];
    this.#lockHash = lockHash(options.schema, { scope: "aggregate", key: options.target });
  }

  async prepare(): Promise<void> {
    const sql = await this.#texts();
    const { source, target } = this.#options;
    const versions = async (db: Pick<PoolClient, "query">): Promise<readonly string[]> => {
      const found = await ownRows<{ name: string }>(
        db,
        `SELECT tgname AS name FROM pg_trigger
         WHERE tgrelid = $1::regclass AND NOT tgisinternal AND starts_with(tgname, $2)`,
        [quoteTable(source), triggerNames(target).all],
      );
      return found.map((row) => row.name);
    };
    // Looked at without a lock first: a deploy that changes nothing must not stop writers.
    if ((await versions(this.#options.pool)).includes(sql.triggerName)) return;
    await this.#inTransaction(async (tx) => {
      await tx.query(`LOCK TABLE ${quoteTable(source)} IN SHARE ROW EXCLUSIVE MODE`);
      const present = await versions(tx);
      if (present.includes(sql.triggerName)) return;
      for (const name of present) {
        await tx.query(`DROP TRIGGER ${quoteIdentifier(name)} ON ${quoteTable(source)}`);
        const place = `${quoteIdentifier(this.#options.schema)}.${quoteIdentifier(name)}`;
        await tx.query(`DROP FUNCTION IF EXISTS ${place}()`);
      }
      for (const statement of sql.install) await tx.query(statement);
    });
  }

  async recompute(keys: readonly AggregateKey[]): Promise<RecomputeCounts> {
    const sql = await this.#texts();
    const given = keys.map((key) => this.#encode(key));
    // A key has one spelling, by the types of its columns: else two could hold "the" lock of one row.
    const rows = await ownRows<KeyRow>(this.#options.pool, sql.spell, [given]);
    let total = noCounts;
    for (const some of piecesOf(
      rows.map(({ key }) => key),
      this.#options.batchKeys,
    )) {
      await this.#run("aggregate-add-keys", [this.name, some]);
      total = sum(total, await this.#compute("aggregate-lock", [this.name, some]));
    }
    return total;
  }

  async recomputeMarked(): Promise<RecomputeCounts & { readonly hasMore: boolean }> {
    const oldest = await this.#run("aggregate-oldest", [this.name, marksPerPass]);
    const keys = oldest.map(({ key }) => key);
    if (keys.length === 0) return { ...noCounts, hasMore: false };
    await this.#run("aggregate-add-keys", [this.name, keys]);
    const { batchKeys } = this.#options;
    const values = [this.name, keys, batchKeys];
    try {
      const counts = await this.#compute("aggregate-lock-free", values);
      return { ...counts, hasMore: counts.keys > 0 };
    } catch (error) {
      if (!isDataFault(error)) throw error;
      const counts = await this.#inHalves(keys.slice(0, batchKeys));
      return { ...counts, hasMore: counts.keys > 0 };
    }
  }

  async marked(
    filter: Partial<Pick<BackfillOptions, "from" | "to" | "where">> = {},
  ): Promise<readonly AggregateKey[]> {
    const { from, to, where = {} } = filter;
    this.#checkDays([from, to].filter((day) => day !== undefined));
    const sql = await this.#texts();
    const columns = this.#whereColumns(where);
    const values = [from ?? null, to ?? null, ...columns.map((column) => where[column])];
    const rows = await ownRows<KeyRow>(this.#options.pool, sql.dirtyKeys(columns), values);
    return rows.map(({ key }) => this.#decode(key));
  }

  async backfill(options: BackfillOptions): Promise<RecomputeCounts> {
    const { from, to, where = {}, onProgress, signal } = options;
    this.#checkDays([from, to]);
    const sql = await this.#texts();
    const columns = this.#whereColumns(where);
    const days = await this.#daysBetween(from, to);
    let total = noCounts;
    for (const [index, day] of days.entries()) {
      const values = [day, ...columns.map((column) => where[column])];
      const rows = await ownRows<KeyRow>(this.#options.pool, sql.keysOfDay(columns), values);
      const pieces = piecesOf(
        rows.map(({ key }) => key),
        this.#options.batchKeys,
      );
      for (const [at, some] of pieces.entries()) {
        if (signal?.aborted === true) return total;
        await this.#run("aggregate-add-keys", [this.name, some]);
        total = sum(total, await this.#compute("aggregate-lock", [this.name, some]));
        const daysDone = at === pieces.length - 1 ? index + 1 : index;
        onProgress?.({ ...total, day, daysDone, daysTotal: days.length });
      }
      if (pieces.length === 0)
        onProgress?.({ ...total, day, daysDone: index + 1, daysTotal: days.length });
    }
    return total;
  }

  async changeTimeZone(where: AggregateKey, change: TimeZoneChange): Promise<void> {
    const sql = await this.#texts();
    const columns = this.#whereColumns(where);
    await this.#inTransaction(async (tx) => {
      // Waits for every writer that may have read the old zone, and holds back those that would.
      await tx.query("SELECT pg_advisory_xact_lock($1)", [this.#lockHash]);
      await change(tx);
      // An event lies on a day that has a row or a mark; in another zone it lies there or next to it.
      const values = columns.map((column) => where[column]);
      await tx.query(sql.markNeighbours(columns), values);
    });
  }

  /** A key that fails must not hold up the others: it is found by halves, and put behind them. */
  async #inHalves(keys: readonly string[]): Promise<RecomputeCounts> {
    try {
      return await this.#compute("aggregate-lock-free", [this.name, keys, keys.length]);
    } catch (error) {
      if (!isDataFault(error)) throw error;
      const half = keys.length >> 1;
      if (half === 0) return this.#setBack(keys);
      return sum(await this.#inHalves(keys.slice(0, half)), await this.#inHalves(keys.slice(half)));
    }
  }

  async #setBack(key: readonly string[]): Promise<RecomputeCounts> {
    await this.#inTransaction(async (tx) => {
      const lock = this.#statements["aggregate-lock-free"].text;
      const held = await tx.query(lock, [this.name, key, 1]);
      if (held.rowCount === 0) return;
      await tx.query(this.#statements["aggregate-set-back"].text, [this.name, ...key]);
    });
    return { ...noCounts, failed: 1 };
  }

  /** The lock, then the snapshot. */
  async #compute(
    lock: "aggregate-lock" | "aggregate-lock-free",
    values: readonly unknown[],
  ): Promise<RecomputeCounts> {
    const sql = await this.#texts();
    return this.#inTransaction(async (tx) => {
      const held = await ownRows<KeyRow>(tx, this.#statements[lock].text, values);
      if (held.length === 0) return noCounts;
      const keys = held.map(({ key }) => key);
      const given = [keys, ...daysOf(keys)];
      type Counts = { readonly written: number; readonly removed: number };
      const [row] = await ownRows<Counts>(tx, sql.recompute, given);
      const { written = 0, removed = 0 } = row ?? {};
      return { keys: keys.length, written, removed, failed: 0 };
    });
  }

  async #inTransaction<T>(work: (tx: PoolClient) => Promise<T>): Promise<T> {
    return inTransaction(this.#options.pool, this.#options.timeoutMs, work);
  }

  async #run(
    name: "aggregate-add-keys" | "aggregate-oldest",
    values: readonly unknown[],
  ): Promise<readonly KeyRow[]> {
    const { text } = this.#statements[name];
    return ownRows<KeyRow>(this.#options.pool, text, values).catch((error: unknown) => {
      throw asSchemaError(error);
    });
  }

  /** The statements hold the types of the key's columns, which only the catalog knows. */
  #texts(): Promise<AggregateSql> {
    this.#sql ??= this.#readTypes().then((types) =>
      aggregateSql(this.#options, types, this.#lockHash),
    );
    // Asked again where it could not be read.
    this.#sql.catch(() => (this.#sql = undefined));
    return this.#sql;
  }

  async #readTypes(): Promise<ReadonlyMap<string, string>> {
    const { pool, source, target } = this.#options;
    const rows = await ownRows<{ column: string; type: string }>(
      pool,
      `SELECT attname AS column, format_type(atttypid, atttypmod) AS type FROM pg_attribute
       WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped`,
      [quoteTable(target)],
    );
    const types = new Map(rows.map(({ column, type }) => [column, type]));
    const problems = this.#columns.filter((column) => !types.has(column));
    const { day } = this.#options;
    if (problems.length > 0)
      throw invalid(`the table ${target} is missing, or has no column ${problems.join(", ")}`);
    // Its text depends on the session's time zone.
    if (this.#columns.some((column) => types.get(column)?.startsWith("timestamp")))
      throw invalid("a column of the key must not be a time");
    // Of a time without a zone AT TIME ZONE does the opposite, and its day would be that of whose session it is.
    const { fields } = await pool.query(
      `SELECT ${quoteIdentifier(day.of)} FROM ${quoteTable(source)} LIMIT 0`,
    );
    if (fields[0]?.dataTypeID !== timestamptz)
      throw invalid(`the column ${day.of} of ${source} must be of type timestamptz`);
    if (types.get(day.column) !== "date")
      throw invalid(`the column ${day.column} of ${target} must be of type date`);
    return types;
  }

  async #daysBetween(from: string, to: string): Promise<readonly string[]> {
    const rows = await ownRows<{ day: string }>(
      this.#options.pool,
      "SELECT to_char(d, 'YYYY-MM-DD') AS day FROM generate_series($1::date, $2::date, interval '1 day') d",
      [from, to],
    );
    return rows.map(({ day }) => day);
  }

  #encode(key: AggregateKey): string {
    const missing = this.#columns.filter((column) => key[column] === undefined);
    if (missing.length > 0) throw invalid(`a key lacks ${missing.join(", ")}`);
    this.#checkDays([String(key[this.#options.day.column])]);
    return JSON.stringify(this.#columns.map((column) => key[column]));
  }

  #decode(text: string): AggregateKey {
    // Numbers beyond 2^53 stay texts, which are read as the column's type again.
    const parts = parse(text, undefined, (digits) =>
      isSafeNumber(digits) ? Number(digits) : digits,
    ) as (string | number | boolean)[];
    return Object.fromEntries(
      this.#columns.map((column, index) => [column, parts[index] as string]),
    );
  }

  #whereColumns(where: AggregateKey): readonly string[] {
    const columns = Object.keys(where);
    const strange = columns.filter((column) => !this.#options.key.includes(column));
    if (strange.length > 0) throw invalid(`not in the key: ${strange.join(", ")}`);
    return columns;
  }

  #checkDays(days: readonly string[]): void {
    const wrong = days.find((day) => !/^\d{4}-\d\d-\d\d$/.test(day));
    if (wrong !== undefined) throw invalid("days are written as 2026-01-31");
  }
}

interface KeyRow {
  readonly key: string;
}

/** The first and the last day of keys, for a look at no more events than need be. */
function daysOf(keys: readonly string[]): readonly [string, string] {
  const days = keys.map((key) => String((JSON.parse(key) as unknown[]).at(-1))).sort();
  // Of a day that is written in another way, such as one before Christ, the order is not that of its letters.
  if (!days.every((day) => /^\d{4}-\d\d-\d\d$/.test(day))) return ["-infinity", "infinity"];
  return [days[0] as string, days.at(-1) as string];
}

/** Its number among the types of every server; that of a domain is its base's. */
const timestamptz = 1184;
const noCounts: RecomputeCounts = { keys: 0, written: 0, removed: 0, failed: 0 };

function sum(a: RecomputeCounts, b: RecomputeCounts): RecomputeCounts {
  return {
    keys: a.keys + b.keys,
    written: a.written + b.written,
    removed: a.removed + b.removed,
    failed: a.failed + b.failed,
  };
}

function piecesOf<T>(all: readonly T[], size: number): readonly (readonly T[])[] {
  const pieces: (readonly T[])[] = [];
  for (let at = 0; at < all.length; at += size) pieces.push(all.slice(at, at + size));
  return pieces;
}

/** A value that the target cannot hold, a rule that it breaks, what a trigger raises: trying again changes nothing. */
function isDataFault(error: unknown): boolean {
  return /^(?:2[123]|44|54|P0001)/.test(sqlStateOf(error) ?? "");
}

function invalid(detail: string): IdempotencyError {
  return new IdempotencyError("options_invalid", { detail: `recomputeAggregate: ${detail}.` });
}

/** A transaction whose every statement has a snapshot of its own. After any failure its connection is thrown away. */
async function inTransaction<T>(
  pool: Pool,
  timeoutMs: number,
  work: (tx: PoolClient) => Promise<T>,
): Promise<T> {
  const client = await pool.connect();
  const onLoss = (): void => undefined;
  client.on("error", onLoss);
  let failed = true;
  try {
    await client.query(
      `BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SET LOCAL statement_timeout = ${timeoutMs}; SET LOCAL jit = off; SET LOCAL enable_mergejoin = off`,
    );
    const result = await work(client);
    await client.query("COMMIT");
    failed = false;
    return result;
  } catch (error) {
    throw asSchemaError(error);
  } finally {
    client.removeListener("error", onLoss);
    client.release(failed);
  }
}
