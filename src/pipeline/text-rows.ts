/**
 * Rows whose values are texts, as in files of CSV. Owns: making of a text the value that its column's type takes, and checking
 * rows without writing them. Must never make another value of a text than the one that is written there.
 */
import type { Pool, QueryResultRow } from "pg";
import { ownRows } from "../stores/own-types.js";
import { quoteIdentifier, statementsFor } from "../stores/sql-text.js";
import { readTable } from "./catalog.js";
import type { SinkColumn } from "./catalog.js";
import type { SinkDescription } from "./description.js";
import { jsonText } from "./encoders.js";
import { addRecord, emptyBlock } from "./record-block.js";
import { encodeKey, encodeRest } from "./row-batch.js";
import type { RowFault } from "./row-batch.js";
import { RowBuffer } from "./row-buffer.js";

export interface TableFacts {
  /** `schema.table`, as the ledger names it. */
  readonly target: string;
  /** Another one after the table was truncated, dropped and made anew, or rewritten. */
  readonly storage: string;
  /** Those that can be written, in the table's order. */
  readonly columns: readonly string[];
}

/** What the catalog says of a table; undefined where there is none. `table` is spelt as for a sink. */
export async function describeTable(given: {
  readonly pool: Pool;
  readonly table: string;
}): Promise<TableFacts | undefined> {
  const quoted = given.table.split(".").map(quoteIdentifier).join(".");
  const { text } = statementsFor("public")["sink-storage"];
  const [row] = await ownRows<TableFacts & QueryResultRow>(given.pool, text, [quoted]);
  return row === undefined ? undefined : { ...row, columns: row.columns ?? [] };
}

/** A value, or what is wrong with its text, as the end of a sentence that begins with the column. */
export type ReadText = (text: string) => { readonly value: unknown } | { readonly problem: string };

export interface TextRows {
  /** How to read the texts of a column; undefined where the sink takes them as they are. */
  reader(column: string): ReadText | undefined;
  /** How to read a text of JSON that stands for something else; undefined where the sink takes it as it is. */
  jsonReader(column: string): ReadText | undefined;
  /** What a sink of the same description would say of a row before it asks the server; undefined: nothing. */
  check(row: Readonly<Record<string, unknown>>): RowFault | undefined;
}

/**
 * Reads texts as a sink of this description needs them.
 *
 * @throws `table_unsuitable` that lists every problem.
 */
export async function textRows({
  pool,
  ...description
}: SinkDescription & { readonly pool: Pool }): Promise<TextRows> {
  const table = await readTable(pool, description);
  const readers = new Map(table.columns.map((column) => [column.name, readerOf(column)]));
  const key = new RowBuffer();
  const rest = new RowBuffer();
  return {
    reader: (column) => readers.get(column),
    // JSON has every other type, or its values are texts for the sink too.
    jsonReader: (column) => {
      const read = readers.get(column);
      return read === readBytes ? read : undefined;
    },
    check: (row) => {
      rest.at = 0;
      return encodeKey(table, row, key) ?? encodeRest(table, row, rest);
    },
  };
}

function readerOf({ isCast, type }: SinkColumn): ReadText | undefined {
  // Those go to the server as text anyway.
  if (isCast) return undefined;
  switch (type.name) {
    case "float4":
    case "float8":
      return readFloat;
    case "bool":
      return readBoolean;
    case "json":
    case "jsonb":
      return readJson;
    case "bytea":
      return readBytes;
    default:
      return type.element === undefined ? undefined : readList;
  }
}

const floatText = /^[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,4})?$/;
/** As Postgres writes them. */
const specialFloats: Readonly<Record<string, number>> = {
  NaN: Number.NaN,
  Infinity: Number.POSITIVE_INFINITY,
  "-Infinity": Number.NEGATIVE_INFINITY,
};

const readFloat: ReadText = (text) => {
  if (floatText.test(text)) {
    const value = Number(text);
    const isGone = value === 0 && /^[^eE]*[1-9]/.test(text);
    return Number.isFinite(value) && !isGone
      ? { value }
      : { problem: "is out of the range of float8" };
  }
  const value = specialFloats[text];
  return value === undefined ? { problem: "is not a number" } : { value };
};

/** What Postgres takes, without its abbreviations of more than one letter. */
const trueTexts = new Set(["true", "t", "yes", "y", "on", "1"]);
const falseTexts = new Set(["false", "f", "no", "n", "off", "0"]);

const readBoolean: ReadText = (text) => {
  const lower = text.toLowerCase();
  if (trueTexts.has(lower)) return { value: true };
  return falseTexts.has(lower) ? { value: false } : { problem: "is not a boolean (true or false)" };
};

const readJson: ReadText = (text) => {
  try {
    JSON.parse(text);
  } catch {
    return { problem: "is not JSON" };
  }
  // The text and not the value: numbers of any size keep their digits.
  return { value: jsonText(text) };
};

const readBytes: ReadText = (text) =>
  /^\\x(?:[\da-fA-F]{2})*$/.test(text)
    ? { value: Buffer.from(text.slice(2), "hex") }
    : { problem: "is not bytes as \\x and hexadecimal digits" };

const readList: ReadText = (text) => {
  const block = emptyBlock();
  addRecord(block, text, 1, true);
  const [fault] = block.faults;
  if (fault?.code === "number_not_exact")
    return { problem: "has a number that cannot be held exactly; write it as a text" };
  const [value] = block.values;
  return Array.isArray(value) ? { value } : { problem: "is not a list as JSON" };
};
