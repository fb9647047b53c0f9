/**
 * Cuts parsed records off a file of CSV, with the place of each. Owns: going on behind a record with broken quotation, which costs its
 * line and no other.
 */
import { Parser } from "csv-parse";
import type { CsvError, Options } from "csv-parse";
import { parse as parseAtOnce } from "csv-parse/sync";
import { maxChunkBytes, newline } from "./load-chunk.js";
import type { ByteTape } from "./load-input.js";

export interface CsvOptions {
  readonly delimiter: string;
  /** The text, without quotation marks, that stands for NULL. */
  readonly nullText: string;
  readonly maxRecordBytes: number;
}

/** Where it is among the bytes of its part. */
export interface RecordPlace {
  readonly from: number;
  readonly to: number;
}

export interface CsvRecord extends RecordPlace {
  /** Undefined where it is none. */
  readonly values: readonly string[] | undefined;
  /** Why it is none, as the end of a sentence. */
  readonly problem: string;
}

export interface CsvPart {
  /** Empty where the file goes on with a line that is too long for a record. */
  readonly bytes: Buffer;
  readonly records: readonly CsvRecord[];
}

/** A part of the file, or undefined at its end. */
export async function cutPart(
  tape: ByteTape,
  options: CsvOptions,
  maxRecords: number,
): Promise<CsvPart | undefined> {
  const isFirst = tape.position === 0;
  const held = new HeldBytes(tape);
  const records: CsvRecord[] = [];
  let end = 0;
  const isFull = (): boolean => records.length >= maxRecords || end >= maxChunkBytes;
  while (!isFull()) {
    const base = end;
    const settings = { ...parserOptions(options), bom: isFirst && base === 0 };
    const parser = new PlaceParser(settings, (values, bytes) => {
      if (isFull()) return;
      records.push({ from: held.skipLineEnds(end), to: base + bytes, values, problem: "" });
      end = base + bytes;
    });
    const error = await parseFrom(held, base, parser, isFull);
    if (isFull()) break;
    if (error === undefined) {
      end = held.bytes.length;
      break;
    }
    const from = held.skipLineEnds(end);
    let to = held.lineEnd(from);
    // The rest of a line of a usual length may not have been read yet.
    while (to === undefined && held.bytes.length - from <= options.maxRecordBytes) {
      await held.more();
      to = held.lineEnd(from);
    }
    end = to ?? from;
    if (to === undefined) break;
    records.push({ from, to, values: undefined, problem: problemOf(error, options) });
  }
  const isOver = held.bytes.length === 0;
  const bytes = held.keep(end);
  return isOver ? undefined : { bytes, records };
}

/** Of each field of a record, whether it is in quotation marks. */
export function quotedFields(record: Buffer, options: CsvOptions): readonly boolean[] {
  if (!record.includes('"')) return [];
  const [fields] = parseAtOnce(record, {
    ...parserOptions(options),
    bom: true,
    cast: (_text, { quoting }) => quoting,
  }) as unknown as boolean[][];
  return fields ?? [];
}

function parserOptions({ delimiter, maxRecordBytes }: CsvOptions): Options {
  return {
    delimiter,
    record_delimiter: ["\r\n", "\n"],
    relax_column_count: true,
    skip_empty_lines: true,
    max_record_size: maxRecordBytes,
  };
}

/**
 * A parser that hands over each record with the bytes up to its end, as soon as it is parsed. Its own ways to do so make several
 * objects a record, which takes half as long again as parsing.
 */
class PlaceParser extends Parser {
  readonly #onRecord: (values: readonly string[], bytes: number) => void;

  constructor(options: Options, onRecord: (values: readonly string[], bytes: number) => void) {
    super(options);
    this.#onRecord = onRecord;
  }

  override push(record: readonly string[] | null): boolean {
    if (record === null) return super.push(null);
    this.#onRecord(record, this.info.bytes);
    return true;
  }
}

/** Parses until it is full, or the file is over, or a record is broken. */
async function parseFrom(
  held: HeldBytes,
  base: number,
  parser: Parser,
  isFull: () => boolean,
): Promise<CsvError | undefined> {
  // The write that failed says it too.
  parser.on("error", () => undefined).resume();
  try {
    const rest = held.bytes.subarray(base);
    if (rest.length > 0) {
      const error = await write(parser, rest);
      if (error !== undefined) return error;
    }
    while (!isFull()) {
      const piece = await held.more();
      const error = piece === undefined ? await finish(parser) : await write(parser, piece);
      if (error !== undefined || piece === undefined) return error;
    }
    return undefined;
  } finally {
    parser.destroy();
  }
}

function write(parser: Parser, piece: Buffer): Promise<CsvError | undefined> {
  return new Promise((resolve) => {
    parser.write(piece, (error) => resolve((error as CsvError | null | undefined) ?? undefined));
  });
}

function finish(parser: Parser): Promise<CsvError | undefined> {
  return new Promise((resolve) => {
    parser.once("error", (error: CsvError) => resolve(error)).once("end", () => resolve(undefined));
    parser.end();
  });
}

function problemOf({ code }: CsvError, { maxRecordBytes }: CsvOptions): string {
  switch (code) {
    case "CSV_INVALID_CLOSING_QUOTE":
      return "has text behind a closing quotation mark";
    case "INVALID_OPENING_QUOTE":
      return "has a quotation mark inside a field that does not begin with one";
    case "CSV_QUOTE_NOT_CLOSED":
      return "has a quotation mark that is not closed";
    case "CSV_MAX_RECORD_SIZE":
      return `is longer than ${maxRecordBytes} bytes, or has a quotation mark that is not closed`;
    default:
      return `is not CSV (${code})`;
  }
}

const carriageReturn = 0x0d;

/** What was read of the file since the part began. */
class HeldBytes {
  readonly #tape: ByteTape;
  #isOver = false;
  bytes: Buffer = Buffer.alloc(0);

  constructor(tape: ByteTape) {
    this.#tape = tape;
  }

  async more(): Promise<Buffer | undefined> {
    const piece = await this.#tape.next();
    if (piece === undefined) this.#isOver = true;
    else this.bytes = Buffer.concat([this.bytes, piece]);
    return piece;
  }

  /** Gives back what is behind. */
  keep(end: number): Buffer {
    this.#tape.unread(this.bytes.subarray(end));
    return this.bytes.subarray(0, end);
  }

  /** Empty lines are no records. */
  skipLineEnds(from: number): number {
    let at = from;
    while (this.bytes[at] === newline || this.bytes[at] === carriageReturn) at += 1;
    return at;
  }

  /** Where the line ends that `from` is on; undefined where that was not read yet. */
  lineEnd(from: number): number | undefined {
    const found = this.bytes.indexOf(newline, from);
    if (found >= 0) return found + 1;
    return this.#isOver ? this.bytes.length : undefined;
  }
}
