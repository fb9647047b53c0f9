/**
 * Cuts lines off a file, and makes records of JSON of them. Owns: that a line which is too long is never held, and costs none of
 * its neighbours.
 */
import { createHash } from "node:crypto";
import { readRecords } from "../pipeline.js";
import { LineIndex, maxChunkBytes, newline } from "./load-chunk.js";
import type { Chunk, ChunkFault, ChunkLimits, LoadedRow } from "./load-chunk.js";
import type { ByteTape } from "./load-input.js";

export interface CutLines {
  /** The lines; of one that is too long, its beginning, which is too long as well. */
  readonly held: Buffer;
  readonly lines: number;
  readonly digest: string;
}

const lineEnd = Buffer.from([newline]);

/** At least one line, or undefined at the end of the file. */
export async function cutLines(
  tape: ByteTape,
  { maxRecords, maxRecordBytes }: ChunkLimits,
): Promise<CutLines | undefined> {
  const digest = createHash("sha256");
  const held: Buffer[] = [];
  let [lines, bytes, lineBytes] = [0, 0, 0];
  for (;;) {
    const piece = await tape.next();
    if (piece === undefined) break;
    let end = 0;
    let isFull = false;
    for (let at = piece.indexOf(newline); at >= 0; at = piece.indexOf(newline, end)) {
      end = at + 1;
      lines += 1;
      isFull = lines >= maxRecords || bytes + end >= maxChunkBytes;
      if (isFull) break;
    }
    const taken = isFull ? piece.subarray(0, end) : piece;
    tape.unread(piece.subarray(taken.length));
    digest.update(taken);
    bytes += taken.length;
    // Only the line that goes on from the piece before can be longer than a piece.
    const first = taken.indexOf(newline);
    const head = taken.subarray(0, first < 0 ? taken.length : first);
    held.push(head.subarray(0, Math.max(0, maxRecordBytes + 1 - lineBytes)));
    if (first < 0) lineBytes += head.length;
    else {
      held.push(lineEnd, taken.subarray(first + 1));
      lineBytes = taken.length - 1 - taken.lastIndexOf(newline);
    }
    if (isFull) break;
  }
  if (bytes === 0) return undefined;
  return { held: Buffer.concat(held), lines, digest: digest.digest("hex").slice(0, 32) };
}

/** What is wrong with a row, as the end of a sentence that begins with the column. */
export interface RowProblem {
  readonly column: string;
  readonly problem: string;
}

/** The records on some lines, without those that `faultOf` finds fault with; undefined at the end of the file. */
export async function cutRecords(
  tape: ByteTape,
  line: number,
  limits: ChunkLimits,
  faultOf: (row: Record<string, unknown>) => RowProblem | undefined,
): Promise<Chunk | undefined> {
  const start = tape.position;
  const cut = await cutLines(tape, limits);
  if (cut === undefined) return undefined;
  const index = new LineIndex(cut.held, line);
  const rows: LoadedRow[] = [];
  const lines: number[] = [];
  const faults: ChunkFault[] = [];
  const addFault = (at: number, column: string | undefined, problem: string): void => {
    const reason = `${column ?? "The line"} ${problem}.`;
    faults.push({ line: at, column, reason, original: index.textOf(at) });
  };
  for await (const block of readRecords(once(cut.held), limits)) {
    for (const { line: at, field, reason } of block.faults) addFault(line + at - 1, field, reason);
    for (const [place, value] of block.values.entries()) {
      const at = line + (block.lines[place] as number) - 1;
      const isObject = typeof value === "object" && value !== null && !Array.isArray(value);
      const wrong = isObject ? faultOf(value as Record<string, unknown>) : notObject;
      if (wrong !== undefined) addFault(at, wrong.column, wrong.problem);
      else {
        rows.push(value as LoadedRow);
        lines.push(at);
      }
    }
  }
  return {
    start,
    end: tape.position,
    line,
    nextLine: line + cut.lines,
    records: rows.length + faults.length,
    digest: cut.digest,
    rows,
    faults,
    lineOf: (row) => lines[row] as number,
    originalOf: (row) => index.textOf(lines[row] as number),
  };
}

const notObject = { column: undefined, problem: "is not a JSON object" };

/** One piece, as if it had come over time. */
// oxlint-disable-next-line require-await -- nothing is waited for
export async function* once(bytes: Buffer): AsyncGenerator<Uint8Array> {
  yield bytes;
}
