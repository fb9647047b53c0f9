/**
 * Zstandard (RFC 8878) on runtimes whose node:zlib has none. Owns: the frames and blocks of a body, so that a few bytes cannot fill
 * the memory: neither by the window that they declare nor by what they unpack to. The content of a block is the decoder's affair.
 */
import { Decompress } from "fzstd";

/** What RFC 8878, section 3.1.1.1.2, asks every decoder to support, and no more. */
const maxWindowBytes = 8 * 1024 * 1024;
/** RFC 8878, section 3.1.1.2.4: what a block holds, packed and unpacked. */
const maxBlockBytes = 128 * 1024;
const frameMagic = 0xfd2fb528;
const firstSkippable = 0x184d2a50;
const repeatedByte = 1;

/** Unpacks a body as it comes, a block at a time. Throws where it is no Zstandard, is cut off, or declares too large a window. */
export async function* unpackZstd(
  source: AsyncIterable<Uint8Array>,
): AsyncGenerator<Uint8Array, void, undefined> {
  const bytes = new ByteReader(source);
  for (;;) {
    const start = await bytes.upTo(4);
    if (start.length === 0) return;
    if (start.length < 4) throw cutOff();
    const magic = start.readUInt32LE();
    // Sixteen magic numbers mark what a decoder passes over.
    if (magic >= firstSkippable && magic < firstSkippable + 16)
      await bytes.skip((await bytes.exactly(4)).readUInt32LE());
    else if (magic === frameMagic) yield* unpackFrame(bytes, start);
    else throw new RangeError("this is no Zstandard frame");
  }
}

async function* unpackFrame(bytes: ByteReader, magic: Buffer): AsyncGenerator<Uint8Array> {
  let unpacked: Uint8Array[] = [];
  const decoder = new Decompress((data) => {
    if (data.length > 0) unpacked.push(data);
  });
  const { header, hasChecksum } = await readHeader(bytes);
  decoder.push(Buffer.concat([magic, header]));
  for (let isLast = false; !isLast;) {
    const blockHeader = await bytes.exactly(3);
    const word = blockHeader.readUIntLE(0, 3);
    const size = word >>> 3;
    if (size > maxBlockBytes) throw new RangeError("a Zstandard block is larger than 128 KiB");
    isLast = (word & 1) === 1;
    const content = await bytes.exactly(((word >>> 1) & 3) === repeatedByte ? 1 : size);
    decoder.push(Buffer.concat([blockHeader, content]));
    yield* unpacked;
    unpacked = [];
  }
  // The decoder does not check it.
  decoder.push(hasChecksum ? await bytes.exactly(4) : new Uint8Array(), true);
  yield* unpacked;
}

/** RFC 8878, section 3.1.1.1. */
async function readHeader(
  bytes: ByteReader,
): Promise<{ readonly header: Buffer; readonly hasChecksum: boolean }> {
  const descriptor = await bytes.exactly(1);
  const flags = descriptor[0] as number;
  const isSingle = (flags & 0x20) !== 0;
  const window = await bytes.exactly(isSingle ? 0 : 1);
  const dictionary = await bytes.exactly([0, 1, 2, 4][flags & 3] as number);
  const size = await bytes.exactly([isSingle ? 1 : 0, 2, 4, 8][flags >>> 6] as number);
  const [packed = 0] = window;
  const base = 2 ** (10 + (packed >>> 3));
  const windowBytes = isSingle ? contentBytes(size) : base + (base / 8) * (packed & 7);
  if (windowBytes > maxWindowBytes)
    throw new RangeError("the Zstandard window is larger than 8 MiB");
  return {
    header: Buffer.concat([descriptor, window, dictionary, size]),
    hasChecksum: (flags & 4) !== 0,
  };
}

function contentBytes(field: Buffer): number {
  if (field.length === 8) return Number(field.readBigUInt64LE());
  return field.readUIntLE(0, field.length) + (field.length === 2 ? 256 : 0);
}

function cutOff(): RangeError {
  return new RangeError("the Zstandard data are cut off");
}

/** Bytes of a source by their number. Holds what was asked for and the rest of one piece. */
class ByteReader {
  readonly #pieces: AsyncIterator<Uint8Array>;
  #rest: Buffer = Buffer.alloc(0);

  constructor(source: AsyncIterable<Uint8Array>) {
    this.#pieces = source[Symbol.asyncIterator]();
  }

  async exactly(count: number): Promise<Buffer> {
    const taken = await this.upTo(count);
    if (taken.length < count) throw cutOff();
    return taken;
  }

  /** Fewer only where the source is over. */
  async upTo(count: number): Promise<Buffer> {
    const parts: Buffer[] = [];
    let missing = count;
    while (missing > 0) {
      if (this.#rest.length === 0 && !(await this.#fill())) break;
      const part = this.#rest.subarray(0, missing);
      this.#rest = this.#rest.subarray(part.length);
      missing -= part.length;
      parts.push(part);
    }
    return parts.length === 1 ? (parts[0] as Buffer) : Buffer.concat(parts);
  }

  async skip(count: number): Promise<void> {
    for (let left = count; left > 0;) {
      if (this.#rest.length === 0 && !(await this.#fill())) throw cutOff();
      const passed = Math.min(left, this.#rest.length);
      this.#rest = this.#rest.subarray(passed);
      left -= passed;
    }
  }

  async #fill(): Promise<boolean> {
    const { value, done } = await this.#pieces.next();
    if (done === true) return false;
    this.#rest = Buffer.from(value.buffer, value.byteOffset, value.byteLength);
    return true;
  }
}
