/**
 * The rows that a batch keeps, by their places: what was given, its number, and where its bytes are. Owns: finding the row of a key. Must
 * never take two keys for one: a hash only says where to look, and bytes decide.
 *
 * Numbers stand in typed arrays, and the table of hashes is one too: an object, a string and an entry of a Map for each row cost more
 * than encoding it does. Everything is kept for the next batch.
 */
import type { RowBuffer } from "./row-buffer.js";

/** Where a row is among the bytes of its batch. */
export interface RowPlace {
  readonly start: number;
  readonly keyEnd: number;
  readonly end: number;
}

const firstRoom = 256;
const empty = 0;

export class KeptRows<Row> {
  size = 0;
  readonly rows: Row[] = [];
  /** Numbers of rows, of a stream that may go on for ever. */
  numbers = new Float64Array(firstRoom);
  starts = new Int32Array(firstRoom);
  /** Where the bytes begin that tell keys apart. */
  keyStarts = new Int32Array(firstRoom);
  keyEnds = new Int32Array(firstRoom);
  ends = new Int32Array(firstRoom);
  #hashes = new Int32Array(firstRoom);
  /** A place and one, where a row's hash leads to, or the next free one behind it. Never more than half full. */
  #slots = new Int32Array(firstRoom * 2);
  readonly #buffer: RowBuffer;
  /** From the start of a row to its `keyStarts`. */
  readonly #keyFrom: number;

  constructor(buffer: RowBuffer, keyFrom: number) {
    this.#buffer = buffer;
    this.#keyFrom = keyFrom;
  }

  /** The first place that holds the same key, or -1. */
  find({ start, keyEnd }: RowPlace, hash: number): number {
    const slots = this.#slots;
    const mask = slots.length - 1;
    for (let slot = hash & mask; ; slot = (slot + 1) & mask) {
      const place = (slots[slot] as number) - 1;
      if (place < 0) return -1;
      if (this.#hashes[place] === hash && this.#hasKey(place, start + this.#keyFrom, keyEnd))
        return place;
    }
  }

  /** Keeps a row behind the others. `isFound`: its key is there already, and the first place stays the one that is found. */
  push(row: Row, rowNumber: number, at: RowPlace, hash: number, isFound: boolean): void {
    const place = this.size;
    if (place === this.starts.length) this.#grow();
    this.size = place + 1;
    this.#hashes[place] = hash;
    this.put(place, row, rowNumber, at);
    if (!isFound) this.#enter(place, hash);
  }

  /** Puts a row of the same key into a place. */
  put(place: number, row: Row, rowNumber: number, { start, keyEnd, end }: RowPlace): void {
    this.rows[place] = row;
    this.numbers[place] = rowNumber;
    this.starts[place] = start;
    this.keyStarts[place] = start + this.#keyFrom;
    this.keyEnds[place] = keyEnd;
    this.ends[place] = end;
  }

  clear(): void {
    this.size = 0;
    this.rows.length = 0;
    this.#slots.fill(empty);
  }

  #enter(place: number, hash: number): void {
    const slots = this.#slots;
    const mask = slots.length - 1;
    let slot = hash & mask;
    while (slots[slot] !== empty) slot = (slot + 1) & mask;
    slots[slot] = place + 1;
  }

  #hasKey(place: number, from: number, to: number): boolean {
    const at = this.keyStarts[place] as number;
    const length = to - from;
    if ((this.keyEnds[place] as number) - at !== length) return false;
    const { view } = this.#buffer;
    let index = 0;
    for (; index + 4 <= length; index += 4)
      if (view.getInt32(at + index) !== view.getInt32(from + index)) return false;
    for (; index < length; index += 1)
      if (view.getUint8(at + index) !== view.getUint8(from + index)) return false;
    return true;
  }

  #grow(): void {
    const room = this.starts.length * 2;
    const grown = (old: Int32Array): Int32Array<ArrayBuffer> => {
      const next = new Int32Array(room);
      next.set(old);
      return next;
    };
    const numbers = new Float64Array(room);
    numbers.set(this.numbers);
    this.numbers = numbers;
    this.starts = grown(this.starts);
    this.keyStarts = grown(this.keyStarts);
    this.keyEnds = grown(this.keyEnds);
    this.ends = grown(this.ends);
    this.#hashes = grown(this.#hashes);
    // Rows whose key has an earlier place are entered too, behind it.
    this.#slots = new Int32Array(room * 2);
    for (let place = 0; place < this.size; place += 1)
      this.#enter(place, this.#hashes[place] as number);
  }
}

/** Of a key's bytes. Any two keys may have the same one. */
export function hashKey({ view }: RowBuffer, from: number, to: number, seed: number): number {
  let hash = seed ^ (to - from);
  let at = from;
  for (; at + 4 <= to; at += 4) hash = stir(hash, view.getInt32(at));
  for (; at < to; at += 1) hash = stir(hash, view.getUint8(at));
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
  return hash ^ (hash >>> 16);
}

/** A round of MurmurHash3. */
function stir(hash: number, word: number): number {
  const mixed = Math.imul(word, 0xcc9e2d51);
  const turned = hash ^ Math.imul((mixed << 15) | (mixed >>> 17), 0x1b873593);
  return (Math.imul((turned << 13) | (turned >>> 19), 5) + 0xe6546b64) | 0;
}
