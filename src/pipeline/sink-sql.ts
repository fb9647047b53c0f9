/**
 * The statements of a sink, written for its table. Owns: their text, and the order in which rows are locked.
 *
 * Every transaction first inserts what is new, in the order of the keys' bytes, and then locks what was there, in the same order. An
 * insert waits only for another insert of the same key, and a lock only for another lock; so no two of them can wait for each
 * other, whatever their batches have in common.
 */
import { createHash } from "node:crypto";
import { quoteIdentifier } from "../stores/sql-text.js";
import type { WireStatement } from "../stores/one-write.js";
import type { SinkColumn, SinkTable } from "./catalog.js";
import { holdTableSql, shapeSql } from "./table-shape.js";

export interface SinkSql {
  /** Keeps the table as it is, then reads its shape: for the beginning of every transaction. */
  readonly watch: readonly [hold: WireStatement, readShape: WireStatement];
  /** Quoted name of the staging table. */
  readonly staged: string;
  /** Creates the staging table where this session has none. */
  readonly createStaged: string;
  readonly copyStaged: string;
  readonly clearStaged: string;
  readonly copyDirect: string;
  /** The places, from 1 and with commas, of the keys that are there already. One array of each of the key's columns. */
  readonly probe: string;
  /** Places of staged rows in the order in which they were copied. */
  readonly listStaged: string;
  /** Removes of the rows of one key all but the one that wins; only with a version. */
  readonly dropTies: string | undefined;
  readonly insertNew: string;
  /** Replaces those that differ, or are older; undefined where nothing is ever replaced. */
  readonly replace: string | undefined;
}

/** The statements for one way of treating rows that are there already. */
export function sinkSql(
  table: SinkTable,
  onDuplicate: "ignore" | "overwrite",
  pooler: "transaction" | undefined,
): SinkSql {
  const names = table.columns.map(({ name }) => quoteIdentifier(name));
  const list = names.join(", ");
  const key = table.keyColumns.map(({ name }) => quoteIdentifier(name));
  const staged = quoteIdentifier(stagedName(table));
  const selected = table.columns.map((column) => assigned("s", column)).join(", ");
  const columnsAsText = table.columns
    .map(({ name, isCast }) => `${quoteIdentifier(name)}${isCast ? "::text" : ""}`)
    .join(", ");
  const binary = "FROM STDIN (FORMAT binary)";
  return {
    watch: watchOf(table, pooler),
    staged,
    // Behind a pooler of transactions the next one meets another session, and this one is somebody else's.
    createStaged: `CREATE TEMP TABLE IF NOT EXISTS ${staged} ON COMMIT ${pooler === undefined ? "DELETE ROWS" : "DROP"}
      AS SELECT ${columnsAsText} FROM ${table.quoted} WITH NO DATA`,
    copyStaged: `COPY pg_temp.${staged} (${list}) ${binary}`,
    clearStaged: `DELETE FROM pg_temp.${staged}`,
    copyDirect: `COPY ${table.quoted} (${list}) ${binary}`,
    probe: probeSql(table),
    listStaged: `SELECT ctid::text AS at FROM pg_temp.${staged} ORDER BY ctid`,
    dropTies: dropTiesSql(table, staged),
    insertNew: `INSERT INTO ${table.quoted} (${list}) SELECT ${selected} FROM pg_temp.${staged} s ORDER BY s.ctid
      ON CONFLICT (${key.join(", ")}) DO NOTHING`,
    replace: onDuplicate === "ignore" ? undefined : replaceSql(table, staged),
  };
}

/** The shape is read by a statement of its own: its snapshot is taken when the table is held. */
function watchOf(table: SinkTable, pooler: "transaction" | undefined): SinkSql["watch"] {
  const names = (columns: readonly SinkColumn[]): string[] => columns.map(({ name }) => name);
  const prepared = (name: string): { readonly name?: string } =>
    pooler === undefined ? { name } : {};
  return [
    { ...prepared("oncekey_sink-hold"), text: holdTableSql(table.quoted), values: [] },
    {
      ...prepared("oncekey_sink-shape"),
      text: shapeSql(table.quoted, names(table.columns), names(table.keyColumns)),
      values: [],
    },
  ];
}

/** Of its table and types: after a change of either a new sink gets a new one. */
function stagedName(table: SinkTable): string {
  const text = JSON.stringify([
    table.quoted,
    table.columns.map(({ name, shown }) => [name, shown]),
  ]);
  return `oncekey_staged_${createHash("sha256").update(text).digest("hex").slice(0, 16)}`;
}

function asColumn(alias: string, { name, isCast, shown }: SinkColumn): string {
  return `${alias}.${quoteIdentifier(name)}${isCast ? `::${shown}` : ""}`;
}

/** As it is assigned: a cast to a type with its length would cut in silence what is too long. */
function assigned(alias: string, { name, isCast, bare }: SinkColumn): string {
  return `${alias}.${quoteIdentifier(name)}${isCast ? `::${bare}` : ""}`;
}

/**
 * One descent of the index a key, whatever the planner believes of the table: LIMIT leaves it no other join. Keys above the largest
 * one, as most of those that begin with the time are, need none: they are not there.
 */
function probeSql({ quoted, keyColumns, hasLargestKey }: SinkTable): string {
  const arrays = keyColumns.map(
    ({ type }, index) => `$${index + 1}::pg_catalog.${quoteIdentifier(type.name)}[]`,
  );
  const places = keyColumns.map((_, index) => `k${index}`);
  const names = keyColumns.map(({ name }) => `t.${quoteIdentifier(name)}`);
  const equal = names.map((name, index) => `${name} = k.k${index}`);
  const isBelow = hasLargestKey
    ? `WHERE k.k0 <= (SELECT ${names[0]} FROM ${quoted} t ORDER BY ${names[0]} DESC LIMIT 1)`
    : "";
  return `SELECT string_agg(k.place::text, ',')
    FROM unnest(${arrays.join(", ")}) WITH ORDINALITY AS k(${places.join(", ")}, place)
    CROSS JOIN LATERAL (SELECT 1 FROM ${quoted} t WHERE ${equal.join(" AND ")} LIMIT 1) f ${isBelow}`;
}

function equalKeys({ keyColumns }: SinkTable, a: string, b: string): string {
  return keyColumns
    .map((column) => `${a}.${quoteIdentifier(column.name)} = ${b}.${quoteIdentifier(column.name)}`)
    .join(" AND ");
}

function image(columns: readonly SinkColumn[], alias: string, isStaged: boolean): string {
  const fields = columns.map((column) =>
    isStaged ? asColumn(alias, column) : `${alias}.${quoteIdentifier(column.name)}`,
  );
  // Without the cast an operator of two ROWs is taken for each of their fields.
  return `ROW(${fields.join(", ")})::record`;
}

/**
 * True where the row of `s` takes the place of the one of `t`. Rows are compared by their stored bytes (`*<>` and `*>`), which is an
 * order of all rows of all types, json among them, and tells 1.0 from 1.00: what is stored does not depend on who came first.
 */
function winsSql(table: SinkTable, s: string, t: string, isTStaged: boolean): string {
  const mine = image(table.columns, s, true);
  const theirs = image(table.columns, t, isTStaged);
  const { versionColumn } = table;
  if (versionColumn === undefined) return `${mine} *<> ${theirs}`;
  const mineAt = asColumn(s, versionColumn);
  const theirsAt = isTStaged
    ? asColumn(t, versionColumn)
    : `${t}.${quoteIdentifier(versionColumn.name)}`;
  return `(${theirsAt} IS NULL OR ${mineAt} > ${theirsAt} OR (${mineAt} = ${theirsAt} AND ${mine} *> ${theirs}))`;
}

function dropTiesSql(table: SinkTable, staged: string): string | undefined {
  if (table.versionColumn === undefined) return undefined;
  const equal = `${image(table.columns, "b", true)} *= ${image(table.columns, "a", true)}`;
  return `DELETE FROM pg_temp.${staged} a USING pg_temp.${staged} b
    WHERE ${equalKeys(table, "a", "b")} AND a.ctid <> b.ctid
      AND (${winsSql(table, "b", "a", true)} OR (${equal} AND b.ctid < a.ctid))
    RETURNING a.ctid::text AS at`;
}

/**
 * Locks in the order of the keys, then updates. The second comparison sees what others committed while the lock was waited for. A
 * row that somebody deletes meanwhile stays deleted, as if that had come after this batch.
 */
function replaceSql(table: SinkTable, staged: string): string | undefined {
  const others = table.columns.slice(table.keyColumns.length);
  if (others.length === 0) return undefined;
  const set = others.map((column) => `${quoteIdentifier(column.name)} = ${assigned("l", column)}`);
  return `WITH l AS MATERIALIZED (
      SELECT s.* FROM pg_temp.${staged} s JOIN ${table.quoted} t ON ${equalKeys(table, "t", "s")}
      WHERE ${winsSql(table, "s", "t", false)} ORDER BY s.ctid FOR UPDATE OF t)
    UPDATE ${table.quoted} t SET ${set.join(", ")} FROM l
    WHERE ${equalKeys(table, "t", "l")} AND ${winsSql(table, "l", "t", false)}`;
}
