/** Bytes of rows in the binary format of COPY, growing as they come. Owns: the numbers of the wire, big end first. */

/** Writes a field, its length first. Answers undefined, or what is wrong with the value, as the end of a sentence. */
export type Encoder = (value: unknown, out: RowBuffer) => string | undefined;

const firstBytes = 64 * 1024;
const two32 = 2 ** 32;

export class RowBuffer {
  bytes = Buffer.allocUnsafe(firstBytes);
  /** Where the next byte goes. */
  at = 0;

  /** Makes room. What was read from `bytes` before is of an older buffer afterwards. */
  reserve(more: number): void {
    if (this.at + more <= this.bytes.length) return;
    const grown = Buffer.allocUnsafe(Math.max(this.bytes.length * 2, this.at + more));
    this.bytes.copy(grown, 0, 0, this.at);
    this.bytes = grown;
  }

  byte(value: number): void {
    this.reserve(1);
    this.bytes[this.at++] = value;
  }

  int16(value: number): void {
    this.reserve(2);
    const { bytes, at } = this;
    bytes[at] = value >> 8;
    bytes[at + 1] = value;
    this.at = at + 2;
  }

  int32(value: number): void {
    this.reserve(4);
    this.putInt32(this.at, value);
    this.at += 4;
  }

  /** Of an integer that a number holds exactly. */
  int64(value: number): void {
    this.reserve(8);
    this.putInt32(this.at, Math.floor(value / two32));
    this.putInt32(this.at + 4, (value % two32) | 0);
    this.at += 8;
  }

  bigInt64(value: bigint): void {
    this.reserve(8);
    this.at = this.bytes.writeBigInt64BE(value, this.at);
  }

  float32(value: number): void {
    this.reserve(4);
    this.at = this.bytes.writeFloatBE(value, this.at);
  }

  float64(value: number): void {
    this.reserve(8);
    this.at = this.bytes.writeDoubleBE(value, this.at);
  }

  append(bytes: Uint8Array, from = 0, to = bytes.length): void {
    this.reserve(to - from);
    this.at = copyBytes(bytes, from, to, this.bytes, this.at);
  }

  /** Overwrites four bytes that are there already, such as a length that is known afterwards. */
  putInt32(at: number, value: number): void {
    const { bytes } = this;
    bytes[at] = value >> 24;
    bytes[at + 1] = value >> 16;
    bytes[at + 2] = value >> 8;
    bytes[at + 3] = value;
  }
}

/** A call out of JavaScript, with a view made for it, costs as much as this many bytes by hand. */
const longestByHand = 64;

/** Copies and answers where the copy ends. */
export function copyBytes(
  bytes: Uint8Array,
  from: number,
  to: number,
  target: Uint8Array,
  at: number,
): number {
  if (to - from > longestByHand) target.set(bytes.subarray(from, to), at);
  else
    for (let index = from; index < to; index += 1)
      target[at + index - from] = bytes[index] as number;
  return at + to - from;
}
