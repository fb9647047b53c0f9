/**
 * What a merge sink needs of an engine, and what it asks of its catalog. Owns: reading the columns' types and the unique indexes
 * that make a merge safe under concurrency. Must never change anything.
 */
import { IdempotencyError } from "../core/errors.js";
import { quoteTable } from "./merge-sql.js";
import type { ColumnTypes, MergeDialect, MergeTarget } from "./merge-sql.js";
import type { ParquetWriter } from "./merge-parquet.js";
import type { MergeStorage } from "./merge-storage.js";

/** Runs one statement and answers its rows, by whatever driver. The statement commits by itself. */
export type RunStatement = (
  text: string,
  values: readonly string[],
) => Promise<readonly Readonly<Record<string, unknown>>[]>;

interface EngineBase {
  readonly run: RunStatement;
  /** Whether a statement may be tried again as it is. Default: the dialect's conflicts, deadlocks and busy locks. */
  readonly isConflict?: (error: unknown) => boolean;
}

/** An engine that takes its rows as a parameter. MariaDB is `mysql`. */
export interface StatementEngine extends EngineBase {
  readonly dialect: Exclude<MergeDialect, "delta">;
}

/** Delta Lake on Spark or Databricks: rows travel as Parquet files on storage that both sides see. */
export interface DeltaEngine extends EngineBase {
  readonly dialect: "delta";
  readonly storage: MergeStorage;
  /** `parquetWriteBuffer` of hyparquet-writer. */
  readonly writeParquet: ParquetWriter;
}

export type MergeEngine = StatementEngine | DeltaEngine;

const conflicts: Readonly<Record<MergeDialect, RegExp>> = {
  postgres: /^(?:40001|40P01|55P03)$/,
  duckdb: /transaction.*conflict|conflict on|duplicate key/i,
  mysql: /^(?:ER_LOCK_DEADLOCK|ER_LOCK_WAIT_TIMEOUT|ER_CHECKREAD)$/,
  sqlite: /^SQLITE_(?:BUSY|LOCKED)/,
  delta:
    /DELTA_CONCURRENT|Concurrent(?:Append|DeleteRead|DeleteDelete|Transaction|Write|Modification)Exception|(?:Metadata|Protocol)ChangedException/,
};

/** What drivers say of an error. */
interface EngineError {
  readonly code?: unknown;
  readonly message?: unknown;
  /** The index, as pg and as postgres.js call it. */
  readonly constraint?: unknown;
  readonly constraint_name?: unknown;
}

/** By the driver's code where there is one, else by its words. */
export async function isConflictOf(
  engine: MergeEngine,
  target: MergeTarget,
  error: unknown,
): Promise<boolean> {
  if (engine.isConflict !== undefined) return engine.isConflict(error);
  const { code, message, constraint, constraint_name: otherwise } = error as EngineError;
  // Postgres' MERGE does not wait for another's insert of a key, and the next try finds it.
  if (engine.dialect === "postgres" && code === "23505")
    return isOfKey(engine, target, constraint ?? otherwise);
  const byWords = engine.dialect === "delta" || engine.dialect === "duckdb";
  return conflicts[engine.dialect].test(String(byWords ? message : code));
}

/** Of a driver that does not name the index, every one may be the key's. */
async function isOfKey(engine: MergeEngine, target: MergeTarget, index: unknown): Promise<boolean> {
  if (index === undefined) return true;
  const quoted = quoteTable("postgres", target.table);
  const rows = await engine.run(uniqueQueries.postgres, [quoted]);
  const columns = rows.filter((row) => row["index"] === index).map((row) => String(row["name"]));
  return columns.length === target.key.length && target.key.every((name) => columns.includes(name));
}

/** A name in a catalog, with the schema where it was given. */
const textOf = (table: string): readonly string[] => {
  const parts = table.split(".");
  return [parts.at(-1) ?? "", parts.at(-2) ?? ""];
};

const columnQueries = {
  postgres: `SELECT a.attname AS name, format_type(a.atttypid, a.atttypmod) AS type FROM pg_attribute a
    WHERE a.attrelid = to_regclass($1) AND a.attnum > 0 AND NOT a.attisdropped`,
  duckdb: `SELECT column_name AS name, data_type AS type FROM information_schema.columns
    WHERE table_name = $1 AND table_schema = CASE WHEN $2 = '' THEN current_schema() ELSE $2 END`,
  mysql: `SELECT column_name AS name, column_type AS type FROM information_schema.columns
    WHERE table_name = ? AND table_schema = COALESCE(NULLIF(?, ''), DATABASE())`,
  sqlite: "SELECT name, type FROM pragma_table_info(?)",
} as const;

/** Each row is one column of one unique index without a condition; `place` orders nothing, the sets are compared. */
const uniqueQueries = {
  postgres: `SELECT c.relname AS index, a.attname AS name FROM pg_index i
    JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
    WHERE i.indrelid = to_regclass($1) AND i.indisunique AND i.indpred IS NULL AND i.indexprs IS NULL AND i.indisvalid`,
  duckdb: `SELECT constraint_index::VARCHAR AS index, unnest(constraint_column_names) AS name FROM duckdb_constraints()
    WHERE table_name = $1 AND schema_name = CASE WHEN $2 = '' THEN current_schema() ELSE $2 END
    AND constraint_type IN ('PRIMARY KEY', 'UNIQUE')`,
  mysql: `SELECT index_name AS \`index\`, column_name AS name FROM information_schema.statistics
    WHERE table_name = ? AND table_schema = COALESCE(NULLIF(?, ''), DATABASE()) AND non_unique = 0`,
} as const;

/**
 * The types of the target's columns.
 *
 * @throws `table_unsuitable` that lists what is missing
 */
export async function readColumns(engine: MergeEngine, target: MergeTarget): Promise<ColumnTypes> {
  const { dialect } = engine;
  const quoted = quoteTable(dialect, target.table);
  const [table = "", schema = ""] = textOf(target.table);
  let values: readonly string[] = [table, schema];
  if (dialect === "postgres") values = [quoted];
  if (dialect === "sqlite") values = [table];
  const types = new Map<string, string>();
  if (dialect === "delta") {
    for (const row of await describeDelta(engine, quoted)) {
      const name = String(row["col_name"]);
      // Behind the columns come the partitions, under a heading.
      if (name === "" || name.startsWith("#")) break;
      types.set(name, String(row["data_type"]));
    }
  } else {
    for (const row of await engine.run(columnQueries[dialect], values))
      types.set(String(row["name"]), String(row["type"]));
  }
  const problems =
    types.size === 0
      ? [`table ${target.table} is not there`]
      : target.columns
          .filter((column) => !types.has(column))
          .map((column) => `column ${column} is not there`);
  if (problems.length === 0 && dialect !== "delta" && dialect !== "sqlite") {
    const rows = await engine.run(uniqueQueries[dialect], values);
    problems.push(...indexProblems(dialect, target.key, rows));
  }
  // Else MySQL stores 0 for what is no number, and half of a text that is too long.
  if (dialect === "mysql") {
    const [mode] = await engine.run("SELECT @@SESSION.sql_mode AS mode", []);
    if (!/STRICT_(?:ALL|TRANS)_TABLES/.test(String(mode?.["mode"])))
      problems.push("the session's sql_mode is not strict");
  }
  if (problems.length > 0)
    throw new IdempotencyError("table_unsuitable", {
      detail: `Table ${target.table}: ${problems.join("; ")}.`,
    });
  return types;
}

/** No rows where the table is not there. */
async function describeDelta(engine: MergeEngine, quoted: string): ReturnType<RunStatement> {
  try {
    return await engine.run(`DESCRIBE TABLE ${quoted}`, []);
  } catch (error) {
    if (error instanceof Error && error.message.includes("TABLE_OR_VIEW_NOT_FOUND")) return [];
    throw error;
  }
}

function indexProblems(
  dialect: MergeDialect,
  key: readonly string[],
  rows: readonly Readonly<Record<string, unknown>>[],
): string[] {
  const indexes = new Map<string, Set<string>>();
  for (const row of rows) {
    const index = String(row["index"]);
    indexes.set(index, (indexes.get(index) ?? new Set()).add(String(row["name"])));
  }
  const isKey = (columns: Set<string>): boolean =>
    columns.size === key.length && key.every((column) => columns.has(column));
  const all = [...indexes.values()];
  if (!all.some(isKey)) return [`no unique index is on exactly (${key.join(", ")})`];
  // ON DUPLICATE KEY means any of them, and would update the row of another key.
  if (dialect === "mysql" && !all.every(isKey))
    return ["a unique index on other columns would make MySQL update rows of other keys"];
  return [];
}
