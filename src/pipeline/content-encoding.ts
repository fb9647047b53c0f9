/**
 * Undoes a Content-Encoding (RFC 9110, section 8.4) of a body as it comes. Owns: which encodings are known. Unpacks no more than its
 * reader asks for, so that a small body which unpacks to a large one costs time and no memory.
 */
import { pipeline, Readable } from "node:stream";
import type { Transform } from "node:stream";
import * as zlib from "node:zlib";
import { unpackZstd } from "./zstd.js";

/** Encodings that {@link decodeContent} undoes. */
export const contentEncodings = ["gzip", "zstd", "br", "deflate"] as const;
export type ContentEncoding = (typeof contentEncodings)[number] | "identity";

/** Thrown by the stream where its bytes are not what the header says. */
export class EncodingError extends Error {
  override readonly name = "EncodingError";
}

/** Whether a body was broken or cut off. */
export function isEncodingError(error: unknown): boolean {
  return error instanceof EncodingError;
}

/** Reads a Content-Encoding header; undefined for one that is not known. Several encodings at once are not. */
export function readContentEncoding(header: string | undefined): ContentEncoding | undefined {
  const name = header?.trim().toLowerCase() ?? "identity";
  if (name === "" || name === "identity") return "identity";
  if (name === "x-gzip") return "gzip";
  return contentEncodings.find((known) => known === name);
}

/**
 * The content behind an encoding.
 *
 * @throws {EncodingError} while it is read, where the bytes are broken or cut off; and what the source throws
 */
export async function* decodeContent(
  source: AsyncIterable<Uint8Array>,
  encoding: ContentEncoding,
): AsyncGenerator<Uint8Array, void, undefined> {
  if (encoding === "identity") {
    yield* source;
    return;
  }
  let failure: { readonly error: unknown } | undefined;
  // What the source throws is not the fault of the bytes.
  const watched = async function* (): AsyncGenerator<Uint8Array> {
    try {
      yield* source;
    } catch (error) {
      failure = { error };
      throw error;
    }
  };
  try {
    yield* unpack(watched(), encoding);
  } catch (cause) {
    if (failure !== undefined) throw failure.error;
    throw new EncodingError(`the body is not valid ${encoding}`, { cause });
  }
}

function unpack(
  source: AsyncIterable<Uint8Array>,
  encoding: Exclude<ContentEncoding, "identity">,
): AsyncIterable<Uint8Array> {
  const decoder = decoderOf(encoding);
  if (decoder === undefined) return unpackZstd(source);
  // Destroys both ends when either fails or is given up; whoever reads is told by the decoder itself.
  pipeline(Readable.from(source, { objectMode: false }), decoder, () => undefined);
  return decoder as AsyncIterable<Uint8Array>;
}

/** Undefined for Zstandard on a runtime without it: Node has it since 22.15. */
function decoderOf(encoding: Exclude<ContentEncoding, "identity">): Transform | undefined {
  if (encoding === "gzip") return zlib.createGunzip();
  if (encoding === "deflate") return zlib.createInflate();
  if (encoding === "br") return zlib.createBrotliDecompress();
  return (zlib as { createZstdDecompress?: () => Transform }).createZstdDecompress?.();
}
