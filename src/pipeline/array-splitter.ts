/**
 * A JSON array, cut into its elements without holding it. Owns: brackets, strings and commas of the outermost array; what an element
 * means is JSON.parse's affair. An element that is broken inside costs itself; an open quotation mark costs what follows it, since
 * nothing in an array says where to go on: newline-delimited JSON has that.
 */
import { isUtf8 } from "node:buffer";
import type { Splitter } from "./line-splitter.js";
import { addRecord } from "./record-block.js";
import type { RecordBlock, RecordFaultCode } from "./record-block.js";

const [tab, newline, carriageReturn, space] = [0x09, 0x0a, 0x0d, 0x20];
const [quote, backslash, comma] = [0x22, 0x5c, 0x2c];
const [openBracket, closeBracket, openBrace, closeBrace] = [0x5b, 0x5d, 0x7b, 0x7d];
const byteOrderMark = [0xef, 0xbb, 0xbf];

/** Where in the body the next byte stands. `one`: the body is a single object and no array. */
type Place = "start" | "before" | "element" | "after" | "end" | "lost";

/** Cuts an array of records, or a body that is one record. */
export class ArraySplitter implements Splitter {
  readonly #maxElementBytes: number;
  #place: Place = "start";
  #isArray = false;
  #seen = 0;
  #marks = 0;
  #line = 1;
  #elementLine = 1;
  #depth = 0;
  #isString = false;
  #isEscaped = false;
  #held: Buffer[] = [];
  #heldBytes = 0;
  #isSkipping = false;

  constructor(maxElementBytes: number) {
    this.#maxElementBytes = maxElementBytes;
  }

  push(piece: Buffer, block: RecordBlock): void {
    for (let at = 0; at < piece.length;) {
      at =
        this.#place === "element"
          ? this.#within(piece, at, block)
          : this.#between(piece, at, block);
    }
  }

  end(block: RecordBlock): void {
    if (this.#place === "element" && this.#depth === 0 && !this.#isArray && !this.#isString)
      this.#endElement(block);
    else if (this.#place === "element")
      this.#fault(block, "not_json", "ends in the middle of a record", this.#elementLine);
    else if (this.#place === "before" || this.#place === "after")
      this.#fault(block, "not_json", "is an array that is not closed");
    else if (this.#place === "start") this.#fault(block, "not_json", "is empty");
  }

  /** One byte between elements; answers where to go on. */
  #between(piece: Buffer, at: number, block: RecordBlock): number {
    const byte = piece[at] as number;
    if (byte === newline) this.#line += 1;
    if (byte === space || byte === newline || byte === tab || byte === carriageReturn)
      return at + 1;
    switch (this.#place) {
      case "start":
        return this.#begin(byte, at, block);
      case "before":
        if (byte === closeBracket) {
          if (this.#seen > 0)
            this.#fault(block, "not_json", "has a comma before the closing bracket");
          this.#place = "end";
          return at + 1;
        }
        if (byte === comma) {
          this.#fault(block, "not_json", "has a comma with no record before it");
          return at + 1;
        }
        this.#beginElement();
        return at;
      case "after":
        if (byte === comma || byte === closeBracket) {
          this.#place = byte === comma ? "before" : "end";
          return at + 1;
        }
        this.#fault(block, "not_json", "has no comma between two records");
        this.#beginElement();
        return at;
      case "end":
        this.#fault(block, "not_json", "has text after its end");
        this.#place = "lost";
        return piece.length;
      default:
        return piece.length;
    }
  }

  #begin(byte: number, at: number, block: RecordBlock): number {
    if (this.#seen === 0 && byte === byteOrderMark[this.#marks]) {
      this.#marks += 1;
      return at + 1;
    }
    if (byte === openBracket) {
      this.#isArray = true;
      this.#place = "before";
      return at + 1;
    }
    if (byte === openBrace) {
      this.#beginElement();
      return at;
    }
    this.#fault(block, "not_json", "is neither an array of records nor one record");
    this.#place = "lost";
    return at + 1;
  }

  /** The bytes of an element up to its end, or to that of the piece; answers where to go on. */
  #within(piece: Buffer, from: number, block: RecordBlock): number {
    let at = from;
    for (; at < piece.length; at += 1) {
      const byte = piece[at] as number;
      if (this.#isString) {
        if (this.#isEscaped) this.#isEscaped = false;
        else if (byte === backslash) this.#isEscaped = true;
        else if (byte === quote) this.#isString = false;
        else if (byte === newline) this.#line += 1;
        continue;
      }
      if (byte === quote) this.#isString = true;
      else if (byte === newline) this.#line += 1;
      else if (byte === openBrace || byte === openBracket) this.#depth += 1;
      else if (byte === closeBrace || byte === closeBracket) {
        // A bare value is ended by the array's own bracket; any other one is a fault of the element.
        if (this.#depth === 0)
          return this.#cut(
            piece,
            from,
            byte === closeBracket && this.#isArray ? at : at + 1,
            block,
          );
        this.#depth -= 1;
        if (this.#depth === 0) return this.#cut(piece, from, at + 1, block);
      } else if (byte === comma && this.#depth === 0) return this.#cut(piece, from, at, block);
    }
    this.#hold(piece.subarray(from));
    return at;
  }

  #cut(piece: Buffer, from: number, to: number, block: RecordBlock): number {
    this.#hold(piece.subarray(from, to));
    this.#endElement(block);
    return to;
  }

  #beginElement(): void {
    this.#place = "element";
    this.#elementLine = this.#line;
    this.#depth = 0;
    this.#isString = false;
    this.#isEscaped = false;
  }

  #hold(part: Buffer): void {
    if (part.length === 0 || this.#isSkipping) return;
    this.#heldBytes += part.length;
    if (this.#heldBytes > this.#maxElementBytes) {
      this.#isSkipping = true;
      this.#held = [];
    } else this.#held.push(part);
  }

  #endElement(block: RecordBlock): void {
    if (this.#isSkipping) {
      const reason = `is longer than ${this.#maxElementBytes} bytes`;
      this.#fault(block, "line_too_long", reason, this.#elementLine);
    } else {
      const [only] = this.#held;
      const bytes =
        this.#held.length === 1 && only !== undefined ? only : Buffer.concat(this.#held);
      if (isUtf8(bytes)) addRecord(block, bytes.toString("utf8"), this.#elementLine, true);
      else this.#fault(block, "invalid_utf8", "is not valid UTF-8", this.#elementLine);
    }
    this.#held = [];
    this.#heldBytes = 0;
    this.#isSkipping = false;
    this.#seen += 1;
    this.#place = this.#isArray ? "after" : "end";
  }

  #fault(block: RecordBlock, code: RecordFaultCode, reason: string, line = this.#line): void {
    block.faults.push({ line, code, reason });
  }
}
