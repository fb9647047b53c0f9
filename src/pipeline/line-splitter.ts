/**
 * Newline-delimited JSON, cut out of pieces of a body. Owns: lines that cross pieces, lines that are too long, and what is no UTF-8.
 * Holds one unfinished line at most, and of one that is too long nothing.
 */
import { isAscii, isUtf8 } from "node:buffer";
import { addRecord, mayBeInexact } from "./record-block.js";
import type { RecordBlock } from "./record-block.js";

/** Takes a body piece by piece. */
export interface Splitter {
  push(piece: Buffer, block: RecordBlock): void;
  /** The body is over. */
  end(block: RecordBlock): void;
}

const newline = 0x0a;
const byteOrderMark = Buffer.from([0xef, 0xbb, 0xbf]);

/** Splits at every newline, whatever stands between: a broken line never costs the next one. */
export class LineSplitter implements Splitter {
  readonly #maxLineBytes: number;
  #line = 1;
  #held: Buffer[] = [];
  #heldBytes = 0;
  /** The line under way is too long, and is thrown away as it comes. */
  #isSkipping = false;

  constructor(maxLineBytes: number) {
    this.#maxLineBytes = maxLineBytes;
  }

  push(piece: Buffer, block: RecordBlock): void {
    const first = piece.indexOf(newline);
    if (first < 0) {
      this.#hold(piece);
      return;
    }
    this.#hold(piece.subarray(0, first));
    this.#endLine(block);
    const last = piece.lastIndexOf(newline);
    if (last > first) this.#takeLines(piece.subarray(first + 1, last), block);
    this.#hold(piece.subarray(last + 1));
  }

  end(block: RecordBlock): void {
    if (this.#heldBytes > 0 || this.#isSkipping) this.#endLine(block);
  }

  #hold(part: Buffer): void {
    if (part.length === 0 || this.#isSkipping) return;
    this.#heldBytes += part.length;
    if (this.#heldBytes > this.#maxLineBytes) {
      this.#isSkipping = true;
      this.#held = [];
    } else this.#held.push(part);
  }

  #endLine(block: RecordBlock): void {
    if (this.#isSkipping) this.#tooLong(block);
    else if (this.#heldBytes > 0) {
      const [only] = this.#held;
      const whole =
        this.#held.length === 1 && only !== undefined ? only : Buffer.concat(this.#held);
      const isMarked = this.#line === 1 && whole.subarray(0, 3).equals(byteOrderMark);
      this.#takeBytes(isMarked ? whole.subarray(3) : whole, block);
    }
    this.#line += 1;
    this.#held = [];
    this.#heldBytes = 0;
    this.#isSkipping = false;
  }

  /** Whole lines, which are most of every piece: decoded at once. */
  #takeLines(lines: Buffer, block: RecordBlock): void {
    const ascii = isAscii(lines);
    if (!ascii && !isUtf8(lines)) {
      this.#takeEach(lines, block);
      return;
    }
    const text = ascii ? lines.toString("latin1") : lines.toString("utf8");
    const isSuspect = mayBeInexact.test(text);
    for (let from = 0; from <= text.length;) {
      const found = text.indexOf("\n", from);
      const to = found < 0 ? text.length : found;
      const line = text.slice(from, to);
      if (this.#isTooLong(line, ascii ? 1 : 3)) this.#tooLong(block);
      else this.#take(line, isSuspect, block);
      this.#line += 1;
      from = to + 1;
    }
  }

  /** A character is one to three bytes, of which nobody counts those of a line that is short enough in any case. */
  #isTooLong(line: string, mostBytesEach: number): boolean {
    const most = this.#maxLineBytes;
    return line.length * mostBytesEach > most && Buffer.byteLength(line) > most;
  }

  /** One of the lines is no UTF-8; the others are as good as any. */
  #takeEach(lines: Buffer, block: RecordBlock): void {
    for (let from = 0; from <= lines.length;) {
      const found = lines.indexOf(newline, from);
      const to = found < 0 ? lines.length : found;
      if (to - from > this.#maxLineBytes) this.#tooLong(block);
      else this.#takeBytes(lines.subarray(from, to), block);
      this.#line += 1;
      from = to + 1;
    }
  }

  #takeBytes(bytes: Buffer, block: RecordBlock): void {
    if (isUtf8(bytes)) this.#take(bytes.toString("utf8"), true, block);
    else
      block.faults.push({ line: this.#line, code: "invalid_utf8", reason: "is not valid UTF-8" });
  }

  #take(text: string, isSuspect: boolean, block: RecordBlock): void {
    // The first character decides almost always; a line of white space is no record.
    if (text.charCodeAt(0) <= 0x20 || text === "") if (text.trim() === "") return;
    addRecord(block, text, this.#line, isSuspect);
  }

  #tooLong(block: RecordBlock): void {
    const reason = `is longer than ${this.#maxLineBytes} bytes`;
    block.faults.push({ line: this.#line, code: "line_too_long", reason });
  }
}
