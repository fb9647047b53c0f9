/**
 * Reads records of a body that is too large to hold. Owns: the order of what comes, and that memory stays bounded whatever is sent.
 */
import { ArraySplitter } from "./array-splitter.js";
import { LineSplitter } from "./line-splitter.js";
import { emptyBlock } from "./record-block.js";
import type { RecordBlock } from "./record-block.js";

export interface ReadRecordsOptions {
  /** `ndjson`: a record on each line. `array`: one JSON array of records, or a single record. Default `ndjson`. */
  readonly format?: "ndjson" | "array";
  /** Longest record in bytes; a longer one is a fault, and is never held. Default 1 MiB. */
  readonly maxRecordBytes?: number;
}

const defaultMaxRecordBytes = 1024 * 1024;

/**
 * Reads JSON records out of a stream of bytes, some at a time: what each piece of the source held. Pull-based, so that a slow
 * reader slows its source; held are one piece and one unfinished record. A record that cannot be read is a fault with its line, and
 * the ones around it are read all the same.
 *
 * Numbers that a double cannot hold exactly are faults and never rounded.
 *
 * @throws what the source throws
 */
export async function* readRecords(
  source: AsyncIterable<Uint8Array>,
  options: ReadRecordsOptions = {},
): AsyncGenerator<RecordBlock, void, undefined> {
  const { format = "ndjson", maxRecordBytes = defaultMaxRecordBytes } = options;
  const splitter =
    format === "array" ? new ArraySplitter(maxRecordBytes) : new LineSplitter(maxRecordBytes);
  for await (const piece of source) {
    const block = emptyBlock();
    splitter.push(bufferOf(piece), block);
    if (block.values.length + block.faults.length > 0) yield block;
  }
  const last = emptyBlock();
  splitter.end(last);
  if (last.values.length + last.faults.length > 0) yield last;
}

function bufferOf(piece: Uint8Array): Buffer {
  return Buffer.isBuffer(piece)
    ? piece
    : Buffer.from(piece.buffer, piece.byteOffset, piece.byteLength);
}
