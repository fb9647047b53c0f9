/**
 * Rows of a batch as an engine's parameter. Owns: which values an engine can be given without changing them. Must never pass on a
 * value that would come out as another one, or a key that would match nothing.
 */
import { stringify } from "lossless-json";
import type { SinkRow } from "./description.js";
import { positionColumn } from "./merge-sql.js";
import type { MergeDialect, MergeTarget } from "./merge-sql.js";

/** What is wrong with a row: the end of a sentence that begins with the column. */
export interface MergeFault {
  readonly column: string;
  readonly problem: string;
}

/** A row's fault that holds for every engine. */
export function faultOf(
  row: SinkRow,
  { key, version, partition, columns }: MergeTarget,
): MergeFault | undefined {
  for (const column of [...key, ...partition, ...(version === undefined ? [] : [version])])
    // NULL is equal to nothing, so such a row would be inserted each time.
    if (row[column] === undefined || row[column] === null)
      return { column, problem: "must have a value: it is part of the key or the version" };
  for (const column of columns) {
    const problem = problemOf(row[column]);
    if (problem !== undefined) return { column, problem };
  }
  return undefined;
}

function problemOf(value: unknown): string | undefined {
  switch (typeof value) {
    case "number":
      if (!Number.isFinite(value)) return "is not a finite number";
      return Number.isInteger(value) && !Number.isSafeInteger(value)
        ? "is an integer beyond 2^53: give it as a bigint or a text"
        : undefined;
    case "string":
      return value.includes("\0") ? "holds a NUL character" : undefined;
    case "function":
    case "symbol":
      return `is a ${typeof value}`;
    case "object":
      return value instanceof Date && Number.isNaN(value.getTime())
        ? "is not a valid time"
        : undefined;
    default:
      return undefined;
  }
}

/** A fault of a value that has to travel as JSON. */
export function jsonFaultOf(row: SinkRow, columns: readonly string[]): MergeFault | undefined {
  const column = columns.find((name) => row[name] instanceof Uint8Array);
  return column === undefined
    ? undefined
    : { column, problem: "is binary, which this dialect cannot be given: encode it as text" };
}

/** The rows as one JSON array. Columns that are NULL are left away, except for DuckDB, whose strict reading misses them. */
export function jsonBatch(
  dialect: Exclude<MergeDialect, "delta">,
  rows: readonly SinkRow[],
  columns: readonly string[],
): string {
  const items = rows.map((row, index) => {
    const entries = columns.flatMap((column) => {
      const value = row[column];
      if (value === undefined || value === null)
        return dialect === "duckdb" ? [[column, null]] : [];
      return [[column, jsonValue(dialect, value)]];
    });
    return { ...Object.fromEntries(entries), [positionColumn]: index };
  });
  return stringify(items) ?? "[]";
}

function jsonValue(dialect: Exclude<MergeDialect, "delta">, value: unknown): unknown {
  if (value instanceof Date) {
    const text = value.toISOString();
    // MySQL takes neither the T nor the Z; its texts of time are read in UTC where the session is.
    return dialect === "mysql" ? text.replace("T", " ").slice(0, -1) : text;
  }
  if (dialect !== "mysql") return value;
  // There everything is read as text.
  if (typeof value === "boolean") return Number(value);
  return typeof value === "object" ? stringify(value) : value;
}
