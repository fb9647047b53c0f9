/** Bytes of rows in the binary format of COPY, growing as they come. Owns: the numbers of the wire, big end first. */

/** Writes a field, its length first. Answers undefined, or what is wrong with the value, as the end of a sentence. */
export type Encoder = (value: unknown, out: RowBuffer) => string | undefined;

const firstBytes = 64 * 1024;
/** Places in it are kept as integers of 32 bits. */
const mostBytes = 2 ** 31 - 1;
const two32 = 2 ** 32;

export class RowBuffer {
  bytes: Buffer;
  /** Of the same bytes: a word at a time is a fraction of the work of four bytes. */
  view: DataView;
  /** Where the next byte goes. */
  at = 0;

  constructor(size = firstBytes) {
    this.bytes = Buffer.allocUnsafe(size);
    this.view = viewOf(this.bytes);
  }

  /** Makes room. What was read from `bytes` before is of an older buffer afterwards. */
  reserve(more: number): void {
    if (this.at + more > this.bytes.length) this.#grow(more);
  }

  #grow(more: number): void {
    const least = this.at + more;
    if (least > mostBytes)
      throw new RangeError("a batch has more than 2 GiB: write it as a stream");
    const grown = Buffer.allocUnsafe(Math.min(Math.max(this.bytes.length * 2, least), mostBytes));
    this.bytes.copy(grown, 0, 0, this.at);
    this.bytes = grown;
    this.view = viewOf(grown);
  }

  byte(value: number): void {
    this.reserve(1);
    this.bytes[this.at++] = value;
  }

  int16(value: number): void {
    this.reserve(2);
    this.view.setInt16(this.at, value);
    this.at += 2;
  }

  int32(value: number): void {
    this.reserve(4);
    this.view.setInt32(this.at, value);
    this.at += 4;
  }

  /** Of an integer that a number holds exactly. */
  int64(value: number): void {
    this.reserve(8);
    const upper = Math.floor(value / two32);
    this.view.setInt32(this.at, upper);
    this.view.setUint32(this.at + 4, value - upper * two32);
    this.at += 8;
  }

  bigInt64(value: bigint): void {
    this.reserve(8);
    this.view.setBigInt64(this.at, value);
    this.at += 8;
  }

  float32(value: number): void {
    this.reserve(4);
    this.view.setFloat32(this.at, value);
    this.at += 4;
  }

  float64(value: number): void {
    this.reserve(8);
    this.view.setFloat64(this.at, value);
    this.at += 8;
  }

  /** Appends what another one has between two places. */
  append(other: RowBuffer, from = 0, to = other.at): void {
    this.reserve(to - from);
    copyWords(other, from, to, this);
  }

  /** Appends bytes of a value. */
  appendBytes(bytes: Uint8Array): void {
    this.reserve(bytes.length);
    this.bytes.set(bytes, this.at);
    this.at += bytes.length;
  }

  /** Overwrites four bytes that are there already, such as a length that is known afterwards. */
  putInt32(at: number, value: number): void {
    this.view.setInt32(at, value);
  }
}

function viewOf({ buffer, byteOffset, byteLength }: Buffer): DataView {
  return new DataView(buffer, byteOffset, byteLength);
}

/** A call out of JavaScript, with a view made for it, costs as much as this many bytes by words. */
const longestByWords = 256;

/** Copies to where the next byte goes; there must be room. */
export function copyWords(source: RowBuffer, from: number, to: number, target: RowBuffer): void {
  let { at } = target;
  if (to - from > longestByWords) {
    target.bytes.set(source.bytes.subarray(from, to), at);
    target.at = at + to - from;
    return;
  }
  const read = source.view;
  const write = target.view;
  let index = from;
  for (; index + 4 <= to; index += 4, at += 4) write.setInt32(at, read.getInt32(index));
  for (; index < to; index += 1, at += 1) write.setUint8(at, read.getUint8(index));
  target.at = at;
}
