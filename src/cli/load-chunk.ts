/**
 * A chunk: the records that become one batch. Owns: what names it. Two chunks of one name hold the same bytes at the same place, so
 * that one which the ledger knows has been loaded, whatever was done to the file meanwhile.
 */
import { createHash } from "node:crypto";

export interface ChunkPlace {
  /** Bytes of the content before it, and up to its end. */
  readonly start: number;
  readonly end: number;
  /** Lines from 1: its first, and the first behind it. */
  readonly line: number;
  readonly nextLine: number;
  /** Those that cannot be read among them. */
  readonly records: number;
  /** Of its bytes. */
  readonly digest: string;
}

export interface Chunk extends ChunkPlace {
  readonly rows: readonly LoadedRow[];
  /** Records that are no rows, with the reason in a sentence. */
  readonly faults: readonly ChunkFault[];
  lineOf(row: number): number;
  originalOf(row: number): string;
}

export type LoadedRow = Readonly<Record<string, unknown>>;

export interface ChunkFault {
  readonly line: number;
  readonly column: string | undefined;
  readonly reason: string;
  readonly original: string;
}

export interface ChunkLimits {
  readonly maxRecords: number;
  readonly maxRecordBytes: number;
}

/** Beyond this a chunk ends, so that memory does not depend on how long records are. */
export const maxChunkBytes = 8 * 1024 * 1024;

export function digestOf(bytes: Buffer): string {
  return createHash("sha256").update(bytes).digest("hex").slice(0, 32);
}

export function batchIdOf(prefix: string, place: ChunkPlace): string {
  const { start, end, line, nextLine, records, digest } = place;
  return `${prefix}${[start, end, line, nextLine, records, digest].join("-")}`;
}

/** Undefined for an id of another form, which an older version may have written. */
export function placeOf(prefix: string, batchId: string): ChunkPlace | undefined {
  const match = /^(\d+)-(\d+)-(\d+)-(\d+)-(\d+)-([\da-f]{32})$/.exec(batchId.slice(prefix.length));
  if (match === null) return undefined;
  const [start, end, line, nextLine, records] = match.slice(1, 6).map(Number) as [
    number,
    number,
    number,
    number,
    number,
  ];
  return { start, end, line, nextLine, records, digest: match[6] as string };
}

/** Lines of a piece of the file, found when somebody asks. */
export class LineIndex {
  readonly #bytes: Buffer;
  readonly #firstLine: number;
  #starts: number[] | undefined;

  constructor(bytes: Buffer, firstLine: number) {
    this.#bytes = bytes;
    this.#firstLine = firstLine;
  }

  /** The line that a byte is on. */
  lineAt(offset: number): number {
    const starts = this.#find();
    let [low, high] = [0, starts.length];
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if ((starts[middle] as number) <= offset) low = middle;
      else high = middle;
    }
    return this.#firstLine + low;
  }

  textOf(line: number): string {
    const starts = this.#find();
    const index = line - this.#firstLine;
    const end = starts[index + 1];
    const bytes = this.#bytes.subarray(starts[index], end === undefined ? undefined : end - 1);
    return bytes.toString("utf8").replace(/\r$/, "");
  }

  #find(): readonly number[] {
    if (this.#starts !== undefined) return this.#starts;
    const starts = [0];
    for (let at = this.#bytes.indexOf(newline); at >= 0; at = this.#bytes.indexOf(newline, at + 1))
      starts.push(at + 1);
    this.#starts = starts;
    return starts;
  }
}

export const newline = 0x0a;

export function countLines(bytes: Buffer): number {
  let count = 0;
  for (let at = bytes.indexOf(newline); at >= 0; at = bytes.indexOf(newline, at + 1)) count += 1;
  return count;
}
