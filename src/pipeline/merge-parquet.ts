/**
 * Rows of a batch as a Parquet file. Owns: the column types of the file. Types that JavaScript has no exact value for travel as text,
 * which the MERGE turns into what the column holds.
 */
import { stringify } from "lossless-json";
import type { SinkRow } from "./description.js";
import type { MergeFault } from "./merge-rows.js";
import { positionColumn } from "./merge-sql.js";
import type { ColumnTypes } from "./merge-sql.js";

type ParquetType = "BOOLEAN" | "INT32" | "INT64" | "DOUBLE" | "BYTE_ARRAY" | "STRING";

interface ParquetColumn {
  readonly name: string;
  readonly type: ParquetType;
  readonly nullable: boolean;
  readonly data: unknown[];
}

/** `parquetWriteBuffer` of hyparquet-writer. */
export type ParquetWriter = (options: {
  // Its own type of the data is a union of arrays of one type each.
  columnData: { name: string; type: ParquetType; nullable: boolean; data: unknown[] & never[] }[];
}) => ArrayBuffer;

/** Every other type of Spark is a text in the file. */
const parquetTypes: Readonly<Record<string, ParquetType>> = {
  boolean: "BOOLEAN",
  tinyint: "INT32",
  smallint: "INT32",
  int: "INT32",
  bigint: "INT64",
  float: "DOUBLE",
  double: "DOUBLE",
  binary: "BYTE_ARRAY",
};

const integerBits: Readonly<Record<string, number>> = {
  tinyint: 8,
  smallint: 16,
  int: 32,
  bigint: 64,
};

const typeOf = (types: ColumnTypes, column: string): string =>
  (types.get(column) ?? "string").toLowerCase();

/** A value that its column's type cannot hold. */
export function parquetFaultOf(
  row: SinkRow,
  columns: readonly string[],
  types: ColumnTypes,
): MergeFault | undefined {
  for (const column of columns) {
    const value = row[column];
    if (value === undefined || value === null) continue;
    const type = typeOf(types, column);
    const bits = integerBits[type];
    const isFitting =
      bits !== undefined
        ? isInteger(value, bits)
        : type === "boolean"
          ? typeof value === "boolean"
          : type === "binary"
            ? value instanceof Uint8Array
            : type === "float" || type === "double"
              ? typeof value === "number"
              : !(value instanceof Uint8Array);
    if (!isFitting) return { column, problem: `is not a value of type ${type}` };
  }
  return undefined;
}

function isInteger(value: unknown, bits: number): boolean {
  const isWhole =
    typeof value === "bigint" ||
    (typeof value === "number" && Number.isSafeInteger(value)) ||
    (typeof value === "string" && /^-?\d{1,20}$/.test(value));
  return isWhole && BigInt.asIntN(bits, BigInt(value)) === BigInt(value);
}

export function parquetBatch(
  write: ParquetWriter,
  rows: readonly SinkRow[],
  columns: readonly string[],
  types: ColumnTypes,
): Uint8Array {
  const columnData: ParquetColumn[] = columns.map((name) => {
    const type = parquetTypes[typeOf(types, name)] ?? "STRING";
    const data = rows.map((row) => parquetValue(type, row[name]));
    return { name, type, nullable: true, data };
  });
  const positions = rows.map((_, index) => index);
  columnData.push({ name: positionColumn, type: "INT32", nullable: false, data: positions });
  return new Uint8Array(
    write({ columnData: columnData as Parameters<ParquetWriter>[0]["columnData"] }),
  );
}

function parquetValue(type: ParquetType, value: unknown): unknown {
  if (value === undefined || value === null) return null;
  if (type === "INT64") return BigInt(value as number | bigint | string);
  if (type === "INT32") return Number(value);
  if (type !== "STRING" || typeof value === "string") return value;
  if (value instanceof Date) return value.toISOString();
  return stringify(value);
}
