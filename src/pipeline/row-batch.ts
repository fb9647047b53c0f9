/**
 * The rows of one batch, encoded as they come. Owns: which of several rows of one key is kept, and the order in which rows reach the
 * server. Must never drop a row that the server would have preferred.
 */
import { createHash } from "node:crypto";
import type { SinkTable } from "./catalog.js";
import { encodeNull } from "./encoders.js";
import { copyBytes, RowBuffer } from "./row-buffer.js";

/** What is wrong with a row, before anybody is told. */
export interface RowFault {
  readonly column: string;
  /** The end of a sentence that begins with the column. */
  readonly problem: string;
}

/** A row that the server gets. */
export interface KeptRow<Row> {
  readonly row: Row;
  readonly rowNumber: number;
  /** Bytes of the key; equal for equal keys. */
  readonly key: string;
  /** Where the row is among the bytes of the batch. */
  readonly start: number;
  readonly end: number;
  readonly keyEnd: number;
}

export type OnDuplicate = "ignore" | "overwrite";

/** Signature, flags and the length of a header extension that is not there. */
const copyHead = Buffer.concat([Buffer.from("PGCOPY\n\xff\r\n\0", "latin1"), Buffer.alloc(8)]);
const copyTail = Buffer.from([0xff, 0xff]);
const countBytes = 2;
const lengthBytes = 4;
/** Types whose binary form is a signed integer, big end first, so that versions can be compared here. */
const integerTypes = ["int2", "int4", "int8", "timestamptz", "date"];

/** Encodes the key of a row into a buffer of its own, for whoever has to know it before the row has a batch. */
export function encodeKey(
  table: SinkTable,
  row: Readonly<Record<string, unknown>>,
  out: RowBuffer,
): RowFault | undefined {
  out.at = 0;
  out.int16(table.columns.length);
  for (const column of table.keyColumns) {
    const value = row[column.name];
    if (value === null || value === undefined)
      return { column: column.name, problem: "is missing, and it is part of the key" };
    const problem = column.encode(value, out);
    if (problem !== undefined) return { column: column.name, problem };
  }
  return undefined;
}

export class RowBatch<Row extends object> {
  readonly #table: SinkTable;
  readonly #keeps: "first" | "last" | "newest";
  readonly #buffer: RowBuffer;
  readonly #places = new Map<string, number>();
  #kept: KeptRow<Row>[] = [];
  #hasTies = false;
  #isSorted = true;
  duplicates = 0;

  constructor(table: SinkTable, onDuplicate: OnDuplicate, buffer = new RowBuffer()) {
    this.#table = table;
    this.#buffer = buffer;
    if (table.versionColumn !== undefined) this.#keeps = "newest";
    else this.#keeps = onDuplicate === "ignore" ? "first" : "last";
  }

  /** Rows that are kept. */
  get size(): number {
    return this.#kept.length;
  }

  get bytes(): number {
    return this.#buffer.at;
  }

  /** Rows of one key are left whose order only the server knows. */
  get hasTies(): boolean {
    return this.#hasTies;
  }

  /** Adds a row whose key was encoded by {@link encodeKey}. A row that is not taken leaves nothing behind. */
  add(row: Row, rowNumber: number, encodedKey: RowBuffer): RowFault | undefined {
    const out = this.#buffer;
    const start = out.at;
    out.append(encodedKey.bytes, 0, encodedKey.at);
    const keyEnd = out.at;
    const fault = this.encodeRest(row as Readonly<Record<string, unknown>>);
    if (fault !== undefined) {
      out.at = start;
      return fault;
    }
    const from = start + countBytes + (this.#table.keyColumns.length === 1 ? lengthBytes : 0);
    const key = out.bytes.toString("latin1", from, keyEnd);
    this.#keep({ row, rowNumber, key, start, end: out.at, keyEnd });
    return undefined;
  }

  /** Encodes the columns behind the key. */
  encodeRest(row: Readonly<Record<string, unknown>>): RowFault | undefined {
    const { columns, keyColumns, versionColumn } = this.#table;
    const out = this.#buffer;
    for (let index = keyColumns.length; index < columns.length; index += 1) {
      const column = columns[index] as (typeof columns)[number];
      const value = row[column.name];
      if (value === null || value === undefined) {
        if (column === versionColumn)
          return { column: column.name, problem: "is missing, and it is the version" };
        if (column.isNotNull)
          return { column: column.name, problem: "is missing, and its column is NOT NULL" };
        encodeNull(out);
        continue;
      }
      const problem = column.encode(value, out);
      if (problem !== undefined) return { column: column.name, problem };
    }
    return undefined;
  }

  #keep(row: KeptRow<Row>): void {
    const kept = this.#kept;
    const place = this.#places.get(row.key);
    if (place === undefined) {
      const before = kept.at(-1);
      if (before !== undefined && before.key > row.key) this.#isSorted = false;
      this.#places.set(row.key, kept.length);
      kept.push(row);
      return;
    }
    const winner =
      this.#keeps === "newest" ? this.#newest(kept[place] as KeptRow<Row>, row) : this.#keeps;
    if (winner === "both") {
      this.#hasTies = true;
      this.#isSorted = false;
      kept.push(row);
      return;
    }
    this.duplicates += 1;
    if (winner === "last") kept[place] = row;
  }

  /**
   * Versions that are integers are compared here. Of equal ones, and of those of other types, the server decides by what it
   * stores, so both go there, unless the rows are the same.
   */
  #newest(first: KeptRow<Row>, last: KeptRow<Row>): "first" | "last" | "both" {
    const { bytes } = this.#buffer;
    const isSame = bytes.compare(bytes, first.start, first.end, last.start, last.end) === 0;
    if (isSame) return "first";
    // Once there are ties of a key, a later row of it could beat one of them and not the other.
    const type = this.#table.versionColumn?.type.name ?? "";
    if (this.#hasTies || !integerTypes.includes(type)) return "both";
    const order = this.#compareVersions(first, last);
    if (order === 0) return "both";
    return order > 0 ? "first" : "last";
  }

  #compareVersions(a: KeptRow<Row>, b: KeptRow<Row>): number {
    const { bytes } = this.#buffer;
    const size = bytes.readInt32BE(a.keyEnd);
    const atA = a.keyEnd + lengthBytes;
    const atB = b.keyEnd + lengthBytes;
    // The first byte has the sign.
    const first = bytes.readInt8(atA) - bytes.readInt8(atB);
    if (first !== 0) return first;
    return bytes.compare(bytes, atB, atB + size, atA, atA + size);
  }

  /** The rows that are kept, in the order of their keys' bytes: the same one in every process. */
  sorted(): readonly KeptRow<Row>[] {
    if (!this.#isSorted)
      this.#kept.sort((a, b) =>
        a.key < b.key ? -1 : a.key > b.key ? 1 : a.rowNumber - b.rowNumber,
      );
    this.#isSorted = true;
    this.#places.clear();
    return this.#kept;
  }

  /** Takes rows out that cannot be stored. */
  remove(rows: ReadonlySet<KeptRow<Row>>): void {
    this.#kept = this.#kept.filter((row) => !rows.has(row));
  }

  /** The rows as COPY takes them. */
  copyBytes(rows: readonly KeptRow<Row>[]): Buffer {
    const { bytes } = this.#buffer;
    let size = copyHead.length + copyTail.length;
    for (const { start, end } of rows) size += end - start;
    const out = Buffer.allocUnsafe(size);
    let at = copyHead.copy(out);
    // Rows that lie behind each other, as those of ordered keys do, are copied at once.
    let from = 0;
    let to = 0;
    for (const { start, end } of rows) {
      if (start !== to) {
        at = copyBytes(bytes, from, to, out, at);
        from = start;
      }
      to = end;
    }
    at = copyBytes(bytes, from, to, out, at);
    copyTail.copy(out, at);
    return out;
  }

  /** One array of each of the key's columns, as a binary parameter: elements look as fields of COPY do. */
  keyArrays(rows: readonly KeptRow<Row>[]): Buffer[] {
    const { keyColumns } = this.#table;
    const { bytes } = this.#buffer;
    const arrays = keyColumns.map(({ type }) => arrayHead(type.oid, rows.length));
    for (const { start } of rows) {
      let at = start + countBytes;
      for (const array of arrays) {
        const end = at + lengthBytes + bytes.readInt32BE(at);
        array.append(bytes, at, end);
        at = end;
      }
    }
    return arrays.map((array) => array.bytes.subarray(0, array.at));
  }

  /** Of the rows as they came. */
  digest(): Buffer {
    return createHash("sha256").update(this.#buffer.bytes.subarray(0, this.#buffer.at)).digest();
  }
}

function arrayHead(elementOid: number, length: number): RowBuffer {
  const array = new RowBuffer();
  const dimensions = length === 0 ? 0 : 1;
  for (const word of [dimensions, 0, elementOid]) array.int32(word);
  if (dimensions === 1) for (const word of [length, 1]) array.int32(word);
  return array;
}
