/**
 * The statement that merges a batch, for each dialect, from one description. Owns: quoting, which of several rows of one key is
 * taken, and when a stored row gives way. Must never hold a value: rows are a parameter, or a Parquet file beside the statement.
 *
 * Equal versions are decided by the rows' content, in whatever order they come: the row whose text is greater wins.
 */
import type { SinkDescription } from "./description.js";

export type MergeDialect = "postgres" | "duckdb" | "mysql" | "sqlite" | "delta";

/** The columns of a table with their types, as the engine spells them. */
export type ColumnTypes = ReadonlyMap<string, string>;

/** The description with its key as a list. */
export interface MergeTarget extends Omit<SinkDescription, "key"> {
  readonly key: readonly string[];
  /** Columns that the key determines and the target is partitioned by. */
  readonly partition: readonly string[];
}

/** Where a row stood in its batch; no column of a target may have this name. */
export const positionColumn = "oncekey_position";

export function quoteName(dialect: MergeDialect, name: string): string {
  if (dialect === "mysql" || dialect === "delta") return `\`${name.replaceAll("`", "``")}\``;
  return `"${name.replaceAll('"', '""')}"`;
}

/** `sales.orders` is a table in a schema, and `main.sales.orders` one in a catalog. */
export function quoteTable(dialect: MergeDialect, table: string): string {
  return table
    .split(".")
    .map((part) => quoteName(dialect, part))
    .join(".");
}

export function quoteText(dialect: MergeDialect, text: string): string {
  // Only these two read a backslash inside of a literal.
  const plain = dialect === "mysql" || dialect === "delta" ? text.replaceAll("\\", "\\\\") : text;
  return dialect === "delta"
    ? `'${plain.replaceAll("'", "\\'")}'`
    : `'${plain.replaceAll("'", "''")}'`;
}

/**
 * The statement for one batch. Its one parameter is the batch as a JSON array of objects.
 *
 * @param types of the description's columns; only duckdb needs them
 */
export function mergeSql(
  dialect: Exclude<MergeDialect, "delta">,
  target: MergeTarget,
  types: ColumnTypes,
): string {
  if (dialect === "mysql") return mysqlUpsert(target);
  if (dialect === "sqlite") return sqliteUpsert(target);
  return mergeFrom(dialect, target, jsonRows(dialect, target, types));
}

/** The MERGE of a Parquet file, whose columns are those of {@link parquetColumns}. */
export function deltaMergeSql(target: MergeTarget, types: ColumnTypes, path: string): string {
  const columns = target.columns.map((name) => {
    const column = quoteName("delta", name);
    return `${deltaValue(column, name, types.get(name) ?? "string")} AS ${column}`;
  });
  const file = `parquet.${quoteName("delta", path)}`;
  return mergeFrom(
    "delta",
    target,
    `SELECT ${[...columns, positionColumn].join(", ")} FROM ${file}`,
  );
}

/** Texts become what the column holds. Spark would make NULL of what it cannot read; here that fails the statement. */
function deltaValue(column: string, name: string, type: string): string {
  if (/^(?:string|boolean|tinyint|smallint|int|bigint|float|double|binary)$/i.test(type))
    return `CAST(${column} AS ${type})`;
  const value = /^(?:struct|array|map)</i.test(type)
    ? `from_json(${column}, ${quoteText("delta", type)})`
    : `CAST(${column} AS ${type})`;
  const fault = quoteText("delta", `${deltaFault} ${name} of type ${type}`);
  return `IF(${column} IS NOT NULL AND ${value} IS NULL, CAST(raise_error(${fault}) AS ${type}), ${value})`;
}

/** Begins the message of a value that Spark cannot read. */
export const deltaFault = "oncekey: not a value for";

/** One row of each key, typed as the target's columns are, so that versions and contents compare the same on both sides. */
function mergeFrom(
  dialect: "postgres" | "duckdb" | "delta",
  target: MergeTarget,
  rows: string,
): string {
  const { key, columns, onDuplicate, partition } = target;
  const name = (column: string): string => quoteName(dialect, column);
  const list = columns.map(name).join(", ");
  const on = [...new Set([...key, ...partition])].map(
    (column) => `t.${name(column)} = s.${name(column)}`,
  );
  const updates = columns
    .filter((column) => !key.includes(column))
    .map((column) => `${name(column)} = s.${name(column)}`);
  const when = guard(dialect, target);
  return [
    `MERGE INTO ${quoteTable(dialect, target.table)} AS t USING (`,
    `SELECT ${list} FROM (`,
    `SELECT ${list}, ROW_NUMBER() OVER (PARTITION BY ${key.map(name).join(", ")} ORDER BY ${latestFirst(dialect, target)}) AS oncekey_place`,
    `FROM (${rows}) AS r`,
    `) AS ranked WHERE oncekey_place = 1`,
    `) AS s ON ${on.join(" AND ")}`,
    ...(onDuplicate === "ignore" || updates.length === 0
      ? []
      : [
          `WHEN MATCHED${when === undefined ? "" : ` AND (${when})`} THEN UPDATE SET ${updates.join(", ")}`,
        ]),
    `WHEN NOT MATCHED THEN INSERT (${list}) VALUES (${columns.map((column) => `s.${name(column)}`).join(", ")})`,
  ].join("\n");
}

function latestFirst(
  dialect: "postgres" | "duckdb" | "delta",
  { version, columns, onDuplicate }: MergeTarget,
): string {
  if (onDuplicate === "ignore") return `${positionColumn} ASC`;
  if (version === undefined) return `${positionColumn} DESC`;
  return `r.${quoteName(dialect, version)} DESC, ${content(dialect, "r", columns)} DESC`;
}

/** Undefined where a stored row always gives way. A stored row without a version is older than any. */
function guard(
  dialect: "postgres" | "duckdb" | "delta",
  { version, columns }: MergeTarget,
): string | undefined {
  if (version === undefined) return undefined;
  const [old, fresh] = [`t.${quoteName(dialect, version)}`, `s.${quoteName(dialect, version)}`];
  const greater = `${content(dialect, "s", columns)} > ${content(dialect, "t", columns)}`;
  return `${old} IS NULL OR ${fresh} > ${old} OR (${fresh} = ${old} AND ${greater})`;
}

/** A row as one text, in which different rows differ. */
function content(
  dialect: "postgres" | "duckdb" | "delta",
  from: string,
  columns: readonly string[],
): string {
  const named = columns.map(
    (column) => [`${from}.${quoteName(dialect, column)}`, quoteName(dialect, column)] as const,
  );
  if (dialect === "postgres")
    return `ROW(${named.map(([column]) => column).join(", ")})::text COLLATE "C"`;
  if (dialect === "duckdb")
    return `CAST(to_json(struct_pack(${named.map(([column, as]) => `${as} := ${column}`).join(", ")})) AS VARCHAR)`;
  return `to_json(struct(${named.map(([column, as]) => `${column} AS ${as}`).join(", ")}))`;
}

function jsonRows(
  dialect: "postgres" | "duckdb",
  { table, columns }: MergeTarget,
  types: ColumnTypes,
): string {
  const list = columns.map((column) => quoteName(dialect, column)).join(", ");
  if (dialect === "postgres")
    return (
      `SELECT ${list}, ordinality AS ${positionColumn} ` +
      `FROM json_populate_recordset(NULL::${quoteTable(dialect, table)}, $1::json) WITH ORDINALITY`
    );
  const structure = JSON.stringify([
    Object.fromEntries(
      [...columns, positionColumn].map((column) => [column, types.get(column) ?? "INTEGER"]),
    ),
  ]);
  const parsed = `json_transform_strict($1::VARCHAR::JSON, ${quoteText(dialect, structure)})`;
  const fields = columns.map((column) => `item.${quoteName(dialect, column)}`).join(", ");
  return `SELECT ${fields}, item.${positionColumn} FROM (SELECT unnest(${parsed}) AS item)`;
}

/**
 * MySQL and MariaDB. Duplicates inside the batch are settled one after the other, by the same comparison. Assignments see the ones
 * before them, so they run from the last column to the first and the version comes last: what is still to be compared is then
 * always as it was.
 */
function mysqlUpsert(target: MergeTarget): string {
  const { table, key, columns, version, onDuplicate } = target;
  const name = (column: string): string => quoteName("mysql", column);
  // As text: only the INSERT itself refuses what does not fit, JSON_TABLE of MariaDB would make 0 of it.
  const read = columns.map(
    (column) =>
      `${name(column)} longtext PATH ${quoteText("mysql", `$.${JSON.stringify(column)}`)} NULL ON EMPTY ERROR ON ERROR`,
  );
  const list = columns.map(name).join(", ");
  const others = columns.filter((column) => !key.includes(column) && column !== version);
  const fresh = (column: string): string => `VALUES(${name(column)})`;
  const old = (column: string): string => `${quoteTable("mysql", table)}.${name(column)}`;
  const first = key[0] ?? "";
  let updates: string[];
  if (onDuplicate === "ignore" || columns.length === key.length) {
    // INSERT IGNORE would swallow every other fault too.
    updates = [`${name(first)} = ${old(first)}`];
  } else if (version === undefined) {
    updates = others.map((column) => `${name(column)} = ${fresh(column)}`);
  } else {
    const wins = mysqlWins(version, others, old, fresh);
    updates = [...others.toReversed(), version].map(
      (column) => `${name(column)} = IF(${wins}, ${fresh(column)}, ${old(column)})`,
    );
  }
  return [
    `INSERT INTO ${quoteTable("mysql", table)} (${list})`,
    `SELECT ${columns.map((column) => `r.${name(column)}`).join(", ")} FROM JSON_TABLE(?, '$[*]' COLUMNS(${positionColumn} FOR ORDINALITY, ${read.join(", ")})) AS r`,
    `ORDER BY r.${positionColumn}`,
    `ON DUPLICATE KEY UPDATE ${updates.join(", ")}`,
  ].join("\n");
}

function mysqlWins(
  version: string,
  others: readonly string[],
  old: (column: string) => string,
  fresh: (column: string) => string,
): string {
  // By bytes: under a collation two texts can differ and be equal.
  const bytes = (value: string): string => `COALESCE(CONCAT('1', CAST(${value} AS BINARY)), '0')`;
  const byContent = others.reduceRight<string>((rest, column) => {
    const [a, b] = [bytes(fresh(column)), bytes(old(column))];
    return `(${a} > ${b} OR (${a} = ${b} AND ${rest}))`;
  }, "FALSE");
  const [now, was] = [fresh(version), old(version)];
  return `(${was} IS NULL OR ${now} > ${was} OR (${now} = ${was} AND ${byContent}))`;
}

/** SQLite settles duplicates inside the batch one after the other, and `excluded` has the columns' affinities. */
function sqliteUpsert(target: MergeTarget): string {
  const { table, key, columns, version, onDuplicate } = target;
  const name = (column: string): string => quoteName("sqlite", column);
  const others = columns.filter((column) => !key.includes(column));
  const values = columns.map(
    (column) => `json_extract(value, ${quoteText("sqlite", `$.${JSON.stringify(column)}`)})`,
  );
  const text = (from: string): string =>
    columns.map((column) => `quote(${from}.${name(column)})`).join(` || ',' || `);
  const was = version === undefined ? "" : `t.${name(version)}`;
  const now = version === undefined ? "" : `excluded.${name(version)}`;
  const where =
    version === undefined
      ? ""
      : ` WHERE ${was} IS NULL OR ${now} > ${was} OR (${now} = ${was} AND ${text("excluded")} > ${text("t")})`;
  return [
    `INSERT INTO ${quoteTable("sqlite", table)} AS t (${columns.map(name).join(", ")})`,
    // Without WHERE, the parser would take ON CONFLICT for the condition of a join.
    `SELECT ${values.join(", ")} FROM json_each(?) WHERE true ORDER BY key`,
    `ON CONFLICT (${key.map(name).join(", ")}) DO`,
    onDuplicate === "ignore" || others.length === 0
      ? "NOTHING"
      : `UPDATE SET ${others.map((column) => `${name(column)} = excluded.${name(column)}`).join(", ")}${where}`,
  ].join("\n");
}
