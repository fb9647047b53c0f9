/** Compressed bodies: each encoding by an independent packer, broken and cut off ones, and bodies made to fill the memory. */
import { brotliCompressSync, deflateSync, gzipSync } from "node:zlib";

import {
  type ContentEncoding,
  decodeContent,
  EncodingError,
  readContentEncoding,
} from "../../src/pipeline/content-encoding.js";
import { unpackZstd } from "../../src/pipeline/zstd.js";

async function* cut(bytes: Uint8Array, size = 1_000): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size);
}

async function whole(source: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const pieces: Uint8Array[] = [];
  for await (const piece of source) pieces.push(piece);
  return Buffer.concat(pieces);
}

const text = Buffer.from(
  Array.from({ length: 20_000 }, (_, index) => `{"id":${index * 7919}}`).join("\n"),
);
/** What the zstd program makes of thirty lines, with a checksum. */
const packed = Buffer.from("KLUv/QRYnQAAYHsiaWQiOiIxMiJ9CgEAWVdLEnES1Ak=", "base64");
const unpacked = '{"id":"12"}\n'.repeat(30);

const packers: [ContentEncoding, (bytes: Buffer) => Buffer][] = [
  ["identity", (bytes) => bytes],
  ["gzip", (bytes) => gzipSync(bytes)],
  ["deflate", (bytes) => deflateSync(bytes)],
  ["br", (bytes) => brotliCompressSync(bytes)],
];

test.each(packers)("%s", async (encoding, pack) => {
  const got = await whole(decodeContent(cut(pack(text)), encoding));
  expect(got.equals(text)).toBe(true);
});

test.each(packers.slice(1))("%s that is broken, or cut off", async (encoding, pack) => {
  const bytes = pack(text);
  const half = whole(decodeContent(cut(bytes.subarray(0, bytes.length / 2)), encoding));
  await expect(half).rejects.toThrow(EncodingError);
  const noise = whole(decodeContent(cut(Buffer.alloc(5_000, 0xee)), encoding));
  await expect(noise).rejects.toThrow(EncodingError);
});

test.each(packers)("%s hands on what its source throws", async (encoding, pack) => {
  const gone = new Error("the client is gone");
  async function* source(): AsyncGenerator<Uint8Array> {
    yield pack(text).subarray(0, 100);
    await Promise.resolve();
    throw gone;
  }
  await expect(whole(decodeContent(source(), encoding))).rejects.toBe(gone);
});

test("headers", () => {
  const given = [undefined, "", "identity", "GZIP", "x-gzip", "zstd", "gzip, br", "compress"];
  expect(given.map(readContentEncoding)).toEqual([
    "identity",
    "identity",
    "identity",
    "gzip",
    "gzip",
    "zstd",
    undefined,
    undefined,
  ]);
});

describe("zstd", () => {
  const skippable = Buffer.from([0x5a, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3]);
  /** A frame whose window is of 2 ** (10 + exponent) bytes, up to its blocks. */
  const frame = (exponent: number): Buffer =>
    Buffer.from([0x28, 0xb5, 0x2f, 0xfd, 0, exponent << 3]);
  /** A block that repeats one byte 128 Ki times. */
  const repeat = (isLast: boolean): Buffer => {
    const word = (131_072 << 3) | 2 | (isLast ? 1 : 0);
    return Buffer.from([word & 255, (word >> 8) & 255, word >> 16, 0x78]);
  };

  test.each([1, 3, 20, 1_000])("frames of any number, in pieces of %d bytes", async (size) => {
    const body = Buffer.concat([packed, skippable, packed, packed]);
    expect((await whole(unpackZstd(cut(body, size)))).toString()).toBe(unpacked.repeat(3));
    expect((await whole(decodeContent(cut(body, size), "zstd"))).toString()).toBe(
      unpacked.repeat(3),
    );
  });

  test("that is broken, or cut off", async () => {
    for (let length = 1; length < packed.length; length += 1) {
      const part = whole(decodeContent(cut(packed.subarray(0, length)), "zstd"));
      await expect(part).rejects.toThrow(EncodingError);
    }
    const noise = whole(decodeContent(cut(Buffer.alloc(5_000, 0xee)), "zstd"));
    await expect(noise).rejects.toThrow(EncodingError);
  });

  test("a window of more than 8 MiB is refused before it is made", async () => {
    const small = Buffer.concat([frame(13), repeat(true)]);
    expect(await whole(unpackZstd(cut(small)))).toHaveLength(131_072);
    const large = Buffer.concat([packed, frame(20), repeat(true)]);
    await expect(whole(unpackZstd(cut(large)))).rejects.toThrow("larger than 8 MiB");
  });

  test("four bytes that unpack to 128 KiB are unpacked when they are asked for", async () => {
    const blocks = Array.from({ length: 4_000 }, (_, index) => repeat(index === 3_999));
    const bomb = Buffer.concat([frame(7), ...blocks]);
    let bytes = 0;
    for await (const piece of unpackZstd(cut(bomb, 64 * 1024))) {
      expect(piece.length).toBeLessThanOrEqual(131_072);
      bytes += piece.length;
      if (bytes > 16 * 1024 * 1024) break;
    }
    expect(process.memoryUsage().arrayBuffers).toBeLessThan(128 * 1024 * 1024);
  });
});
