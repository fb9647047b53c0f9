/**
 * The rows of one batch, encoded as they come. Owns: which of several rows of one key is kept, and the order in which rows reach the
 * server. Must never drop a row that the server would have preferred.
 */
import { createHash } from "node:crypto";
import type { SinkTable } from "./catalog.js";
import { BeatenRows } from "./beaten-rows.js";
import { encodeNull } from "./encoders.js";
import { hashKey, KeptRows } from "./kept-rows.js";
import type { RowPlace } from "./kept-rows.js";
import { compareKeys, orderKeys } from "./key-order.js";
import { copyWords, RowBuffer } from "./row-buffer.js";

/** What is wrong with a row, before anybody is told. */
export interface RowFault {
  readonly column: string;
  /** The end of a sentence that begins with the column. */
  readonly problem: string;
}

export type OnDuplicate = "ignore" | "overwrite";
/** Numbers of rows within their batch. */
export type Places = Int32Array;

type Values = Readonly<Record<string, unknown>>;

/** Signature, flags and the length of a header extension that is not there. */
export const copyHead = Buffer.concat([
  Buffer.from("PGCOPY\n\xff\r\n\0", "latin1"),
  Buffer.alloc(8),
]);
export const copyTail = Buffer.from([0xff, 0xff]);
const countBytes = 2;
const lengthBytes = 4;
const firstKeyBytes = 4 * 1024;
/** Types whose binary form is a signed integer, big end first, so that versions can be compared here. */
const integerTypes = ["int2", "int4", "int8", "timestamptz", "date"];

/** Appends the beginning of a row: how many columns it has, and those of its key. */
export function encodeKey(table: SinkTable, row: Values, out: RowBuffer): RowFault | undefined {
  const { columns, keyColumns } = table;
  out.int16(columns.length);
  for (let index = 0; index < keyColumns.length; index += 1) {
    const column = keyColumns[index] as (typeof keyColumns)[number];
    const value = row[column.name];
    if (value === null || value === undefined)
      return { column: column.name, problem: "is missing, and it is part of the key" };
    const problem = column.encode(value, out);
    if (problem !== undefined) return { column: column.name, problem };
  }
  return undefined;
}

/** Appends the columns behind the key. */
export function encodeRest(table: SinkTable, row: Values, out: RowBuffer): RowFault | undefined {
  const { columns, keyColumns, versionColumn } = table;
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

/** Of a key that {@link encodeKey} has put at the beginning of a buffer. */
export function hashEncodedKey(key: RowBuffer, seed: number): number {
  return hashKey(key, countBytes, key.at, seed);
}

export class RowBatch<Row extends object> {
  readonly #table: SinkTable;
  readonly #keeps: "first" | "last" | "newest";
  readonly #comparesVersions: boolean;
  readonly #buffer = new RowBuffer();
  readonly #kept: KeptRows<Row>;
  /** What goes to the server is written into the same room each time: memory outside of the heap makes the engine look for garbage. */
  readonly #out = new RowBuffer();
  readonly #arrays: readonly RowBuffer[];
  readonly #beaten: BeatenRows<Row>;
  #hasTies = false;
  #isOrdered = true;
  /** Once it was asked for. */
  #order: Places | undefined;
  duplicates = 0;

  constructor(table: SinkTable, onDuplicate: OnDuplicate) {
    this.#table = table;
    if (table.versionColumn !== undefined) this.#keeps = "newest";
    else this.#keeps = onDuplicate === "ignore" ? "first" : "last";
    this.#comparesVersions = integerTypes.includes(table.versionColumn?.type.name ?? "");
    const keyFrom = countBytes + (table.keyColumns.length === 1 ? lengthBytes : 0);
    this.#kept = new KeptRows(this.#buffer, keyFrom);
    this.#beaten = new BeatenRows(this.#kept);
    this.#arrays = table.keyColumns.map(() => new RowBuffer(firstKeyBytes));
  }

  /** Rows that are kept. */
  get size(): number {
    return this.#order?.length ?? this.#kept.size;
  }

  get bytes(): number {
    return this.#buffer.at;
  }

  /** Rows of one key are left whose order only the server knows. */
  get hasTies(): boolean {
    return this.#hasTies;
  }

  /**
   * Adds a row whose key was encoded by {@link encodeKey}. A row that is not taken leaves nothing behind.
   *
   * @param hash the same one for equal keys
   */
  add(row: Row, rowNumber: number, encodedKey: RowBuffer, hash: number): RowFault | undefined {
    const out = this.#buffer;
    const start = out.at;
    out.append(encodedKey);
    const keyEnd = out.at;
    const fault = encodeRest(this.#table, row as Values, out);
    if (fault !== undefined) {
      out.at = start;
      return fault;
    }
    this.#keep(row, rowNumber, { start, keyEnd, end: out.at }, hash);
    return undefined;
  }

  #keep(row: Row, rowNumber: number, at: RowPlace, hash: number): void {
    const kept = this.#kept;
    const place = kept.find(at, hash);
    if (place < 0) {
      kept.push(row, rowNumber, at, hash, false);
      const last = kept.size - 1;
      if (this.#isOrdered && last > 0)
        this.#isOrdered = compareKeys(this.#keys(), last - 1, last) < 0;
      return;
    }
    if (this.#isSame(place, at)) {
      this.duplicates += 1;
      return;
    }
    const winner = this.#keeps === "newest" ? this.#newest(place, at) : this.#keeps;
    if (winner === "both") {
      this.#hasTies = true;
      this.#isOrdered = false;
      kept.push(row, rowNumber, at, hash, true);
      return;
    }
    this.duplicates += 1;
    if (winner === "last") {
      this.#beaten.addKept(place);
      kept.put(place, row, rowNumber, at);
    } else this.#beaten.add(place, row, rowNumber, at);
  }

  #isSame(place: number, { start, end }: RowPlace): boolean {
    const { bytes } = this.#buffer;
    const { starts, ends } = this.#kept;
    return bytes.compare(bytes, starts[place], ends[place], start, end) === 0;
  }

  /**
   * Versions that are integers are compared here. Of equal ones, and of those of other types, the server decides by what it
   * stores, so both go there.
   */
  #newest(place: number, last: RowPlace): "first" | "last" | "both" {
    // Once there are ties of a key, a later row of it could beat one of them and not the other.
    if (this.#hasTies || !this.#comparesVersions) return "both";
    const order = this.#compareVersions(this.#kept.keyEnds[place] as number, last.keyEnd);
    if (order === 0) return "both";
    return order > 0 ? "first" : "last";
  }

  /** The version stands behind the key. */
  #compareVersions(fieldA: number, fieldB: number): number {
    const { bytes } = this.#buffer;
    const size = bytes.readInt32BE(fieldA);
    const [atA, atB] = [fieldA + lengthBytes, fieldB + lengthBytes];
    // The first byte has the sign.
    const first = bytes.readInt8(atA) - bytes.readInt8(atB);
    if (first !== 0) return first;
    return bytes.compare(bytes, atB, atB + size, atA, atA + size);
  }

  #comparePlaces(a: number, b: number): number {
    const { keyEnds } = this.#kept;
    return this.#compareVersions(keyEnds[a] as number, keyEnds[b] as number);
  }

  #keys(): { readonly view: DataView; readonly from: Int32Array; readonly to: Int32Array } {
    return { view: this.#buffer.view, from: this.#kept.keyStarts, to: this.#kept.keyEnds };
  }

  /**
   * The rows that are kept, in the order of their keys' bytes: the same one in every process. Rows of one key stay in the order
   * in which they came. No row may be added afterwards.
   */
  sorted(): Places {
    const { size } = this.#kept;
    this.#order ??= this.#isOrdered
      ? Int32Array.from({ length: size }, (_, place) => place)
      : orderKeys(this.#keys(), size);
    return this.#order;
  }

  rowAt(place: number): Row {
    return this.#kept.rows[place] as Row;
  }

  numberAt(place: number): number {
    return this.#kept.numbers[place] as number;
  }

  /** Places of rows that one has beaten, those first that would take its place. No row may be added afterwards. */
  beatenBy(place: number): readonly number[] {
    this.sorted();
    const places = this.#beaten.placesOf(place);
    if (this.#keeps === "first") return places;
    places.reverse();
    return this.#comparesVersions ? places.sort((a, b) => this.#comparePlaces(b, a)) : places;
  }

  /** Takes rows out that cannot be stored, beaten ones among them. Another row of their key takes their place. */
  remove(places: ReadonlySet<number>): void {
    const order: number[] = [];
    for (const place of this.sorted())
      if (!places.has(place)) order.push(place);
      else for (const heir of this.#heirsOf(place, places)) order.push(heir);
    this.#order = Int32Array.from(order);
  }

  #heirsOf(place: number, refused: ReadonlySet<number>): readonly number[] {
    const beaten = this.beatenBy(place);
    const left = beaten.filter((other) => !refused.has(other));
    this.duplicates -= beaten.length - left.length;
    const [first] = left;
    if (first === undefined) return [];
    let heirs: readonly number[] = [first];
    if (this.#comparesVersions)
      heirs = left.filter((other) => this.#comparePlaces(other, first) === 0);
    else if (this.#keeps === "newest") heirs = left;
    this.duplicates -= heirs.length;
    this.#hasTies ||= heirs.length > 1;
    this.#beaten.pass(place, first, new Set([...refused, ...heirs]));
    return [...heirs].sort((a, b) => a - b);
  }

  /** The rows as COPY takes them. The bytes are good until the next call. */
  copyBytes(places: Places): Buffer {
    const { starts, ends } = this.#kept;
    let size = copyHead.length + copyTail.length;
    for (const place of places) size += (ends[place] as number) - (starts[place] as number);
    const out = this.#out;
    out.at = 0;
    out.reserve(size);
    out.appendBytes(copyHead);
    // Rows that lie behind each other, as those of ordered keys do, are copied at once.
    let from = 0;
    let to = 0;
    for (const place of places) {
      const start = starts[place] as number;
      if (start !== to) {
        copyWords(this.#buffer, from, to, out);
        from = start;
      }
      to = ends[place] as number;
    }
    copyWords(this.#buffer, from, to, out);
    out.appendBytes(copyTail);
    return out.bytes.subarray(0, out.at);
  }

  /**
   * One array of each of the key's columns, as a binary parameter: elements look as fields of COPY do. The bytes are good until the
   * next call.
   */
  keyArrays(places: Places): Buffer[] {
    const { keyColumns } = this.#table;
    const { starts, keyEnds } = this.#kept;
    const arrays = this.#arrays;
    for (const [index, { type }] of keyColumns.entries())
      beginArray(arrays[index] as RowBuffer, type.oid, places.length);
    const [only] = arrays;
    if (arrays.length === 1 && only !== undefined)
      for (const place of places)
        only.append(this.#buffer, (starts[place] as number) + countBytes, keyEnds[place]);
    else
      for (const place of places) {
        let at = (starts[place] as number) + countBytes;
        for (const array of arrays) {
          const end = at + lengthBytes + this.#buffer.view.getInt32(at);
          array.append(this.#buffer, at, end);
          at = end;
        }
      }
    return arrays.map((array) => array.bytes.subarray(0, array.at));
  }

  /** Of the rows as they came. */
  digest(): Buffer {
    return createHash("sha256").update(this.#buffer.bytes.subarray(0, this.#buffer.at)).digest();
  }

  /** Makes ready for other rows, in the room of these. */
  clear(): void {
    this.#kept.clear();
    this.#buffer.at = 0;
    this.#beaten.clear();
    this.#hasTies = false;
    this.#isOrdered = true;
    this.#order = undefined;
    this.duplicates = 0;
  }
}

function beginArray(array: RowBuffer, elementOid: number, length: number): void {
  array.at = 0;
  const dimensions = length === 0 ? 0 : 1;
  for (const word of [dimensions, 0, elementOid]) array.int32(word);
  if (dimensions === 1) for (const word of [length, 1]) array.int32(word);
}
