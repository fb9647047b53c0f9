/**
 * Arrays as parameters in Postgres' binary format (`array_send` in its arrayfuncs.c). Owns: that a batch travels without being
 * spelled out: as text, every element would be escaped, and bytes take twice their room and time at both ends.
 *
 * pg sends a Buffer as a binary parameter. One dimension, lower bound 1; element types by the OIDs of pg_type.dat.
 */

/** How elements of one type are written. `null` is no element of a size, and takes none. */
interface ElementType<Element> {
  readonly oid: number;
  readonly sizeOf: (element: Element) => number;
  readonly write: (element: Element, to: Buffer, at: number) => void;
}

function arrayOf<Element>(type: ElementType<Element>) {
  return (elements: readonly (Element | null)[]): Buffer => {
    try {
      return encode(type, elements);
    } catch (cause) {
      throw new InvalidElement("an element is no value of its array's type", { cause });
    }
  };
}

function encode<Element>(
  { oid, sizeOf, write }: ElementType<Element>,
  elements: readonly (Element | null)[],
): Buffer {
  let bytes = headerBytes;
  let hasNull = 0;
  const sizes = elements.map((element) => {
    if (element === null) {
      hasNull = 1;
      bytes += lengthBytes;
      return -1;
    }
    const size = sizeOf(element);
    bytes += lengthBytes + size;
    return size;
  });
  const array = Buffer.allocUnsafe(bytes);
  array.writeInt32BE(1, 0);
  array.writeInt32BE(hasNull, 4);
  array.writeInt32BE(oid, 8);
  array.writeInt32BE(elements.length, 12);
  array.writeInt32BE(1, 16);
  let at = headerBytes;
  elements.forEach((element, index) => {
    const size = sizes[index] as number;
    array.writeInt32BE(size, at);
    at += lengthBytes;
    if (element === null) return;
    write(element, array, at);
    at += size;
  });
  return array;
}

/** One element has no value of its array's type; the others may be good. */
export class InvalidElement extends TypeError {}

/** Number of dimensions, whether there are nulls, element type, length, lower bound. */
const headerBytes = 20;
const lengthBytes = 4;

export const textArray = arrayOf<string>({
  oid: 25,
  sizeOf: (text) => Buffer.byteLength(text),
  write: (text, to, at) => void to.write(text, at),
});

export const byteaArray = arrayOf<Uint8Array>({
  oid: 17,
  sizeOf: (bytes) => bytes.byteLength,
  write: (bytes, to, at) => to.set(bytes, at),
});

export const booleanArray = arrayOf<boolean>({
  oid: 16,
  sizeOf: () => 1,
  write: (value, to, at) => void to.writeUInt8(value ? 1 : 0, at),
});

export const smallintArray = arrayOf<number>({
  oid: 21,
  sizeOf: () => 2,
  write: (value, to, at) => void to.writeInt16BE(value, at),
});

/** Of integers that a double holds, from 0 on. */
export const bigintArray = arrayOf<number>({
  oid: 20,
  sizeOf: () => 8,
  write: (value, to, at) => {
    to.writeInt32BE(Math.floor(value / 2 ** 32), at);
    to.writeUInt32BE(value % 2 ** 32, at + 4);
  },
});

/** Of any 64 bits, as signed decimals. */
export const hashArray = arrayOf<string>({
  oid: 20,
  sizeOf: () => 8,
  write: (value, to, at) => void to.writeBigInt64BE(BigInt(value), at),
});

export const doubleArray = arrayOf<number>({
  oid: 701,
  sizeOf: () => 8,
  write: (value, to, at) => void to.writeDoubleBE(value, at),
});

export const uuidArray = arrayOf<string>({
  oid: 2950,
  sizeOf: () => 16,
  write: (uuid, to, at) => {
    // What is not written would be whatever was in memory before.
    if (to.write(uuid.replaceAll("-", ""), at, 16, "hex") !== 16)
      throw new RangeError(`no UUID: ${uuid}`);
  },
});
