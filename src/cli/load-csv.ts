/** Makes rows of records of CSV. Owns: the header, and which values of a record go into which columns, as what. */
import { isUtf8 } from "node:buffer";
import type { ReadText } from "../pipeline.js";
import { countLines, digestOf, LineIndex } from "./load-chunk.js";
import type { Chunk, ChunkFault, ChunkLimits, LoadedRow } from "./load-chunk.js";
import { cutPart, quotedFields } from "./load-csv-records.js";
import type { CsvOptions, CsvRecord, RecordPlace } from "./load-csv-records.js";
import type { ByteTape } from "./load-input.js";
import { cutLines } from "./load-lines.js";

/** A column that is loaded: where it is in a record, and how its text is read. */
export interface CsvField {
  readonly name: string;
  readonly place: number;
  readonly read: ReadText | undefined;
}

export interface CsvShape extends CsvOptions {
  /** How many fields every record has. */
  readonly width: number;
  readonly fields: readonly CsvField[];
}

export interface CsvHeader {
  readonly names: readonly string[];
  /** The line behind it. */
  readonly nextLine: number;
}

/** The first record; undefined where there is none that can be read. */
export async function cutHeader(
  tape: ByteTape,
  options: CsvOptions,
): Promise<CsvHeader | undefined> {
  const part = await cutPart(tape, options, 1);
  const names = part?.records[0]?.values;
  if (part === undefined || names === undefined || !isUtf8(part.bytes)) return undefined;
  return { names, nextLine: 1 + countLines(part.bytes) };
}

/** Some records; undefined at the end of the file. */
export async function cutCsv(
  tape: ByteTape,
  line: number,
  shape: CsvShape,
  limits: ChunkLimits,
): Promise<Chunk | undefined> {
  const start = tape.position;
  const part = await cutPart(tape, shape, limits.maxRecords);
  if (part === undefined) return undefined;
  const { bytes, records } = part;
  if (bytes.length === 0) return cutOverlong(tape, line, limits);
  const index = new LineIndex(bytes, line);
  const isText = isUtf8(bytes);
  const original = ({ from, to }: RecordPlace): string =>
    bytes.toString("utf8", from, to).replace(/\r?\n$/, "");
  const rows: LoadedRow[] = [];
  const places: RecordPlace[] = [];
  const faults: ChunkFault[] = [];
  for (const record of records) {
    const { row, column, problem } = toRow(record, shape, bytes, isText);
    if (row !== undefined) {
      rows.push(row);
      places.push(record);
    } else
      faults.push({
        line: index.lineAt(record.from),
        column,
        reason: `${column ?? "The record"} ${problem}.`,
        original: original(record),
      });
  }
  return {
    start,
    end: tape.position,
    line,
    nextLine: line + countLines(bytes),
    records: records.length,
    digest: digestOf(bytes),
    rows,
    faults,
    lineOf: (row) => index.lineAt((places[row] as RecordPlace).from),
    originalOf: (row) => original(places[row] as RecordPlace),
  };
}

/** A line that is longer than a record may be. */
async function cutOverlong(
  tape: ByteTape,
  line: number,
  limits: ChunkLimits,
): Promise<Chunk | undefined> {
  const start = tape.position;
  const cut = await cutLines(tape, { ...limits, maxRecords: 1 });
  if (cut === undefined) return undefined;
  const reason = `The record is longer than ${limits.maxRecordBytes} bytes.`;
  return {
    start,
    end: tape.position,
    line,
    nextLine: line + cut.lines,
    records: 1,
    digest: cut.digest,
    rows: [],
    faults: [{ line, column: undefined, reason, original: cut.held.toString("utf8").trimEnd() }],
    lineOf: () => line,
    originalOf: () => "",
  };
}

interface ReadRow {
  readonly row?: LoadedRow;
  readonly column?: string | undefined;
  readonly problem?: string;
}

function toRow(record: CsvRecord, shape: CsvShape, bytes: Buffer, isText: boolean): ReadRow {
  const { values, from, to, problem } = record;
  if (values === undefined) return { problem };
  if (values.length !== shape.width)
    return { problem: `has ${values.length} fields where there should be ${shape.width}` };
  if (!isText && !isUtf8(bytes.subarray(from, to))) return { problem: "is not valid UTF-8" };
  // Whether a text is in quotation marks is asked only where it matters: it is slow to find out.
  let quoted: readonly boolean[] | undefined;
  const row: Record<string, unknown> = {};
  for (const { name, place, read } of shape.fields) {
    const text = values[place] as string;
    if (text === shape.nullText) {
      quoted ??= quotedFields(bytes.subarray(from, to), shape);
      if (quoted[place] !== true) {
        row[name] = null;
        continue;
      }
    }
    const result = read === undefined ? { value: text } : read(text);
    if ("problem" in result) return { column: name, problem: result.problem };
    row[name] = result.value;
  }
  return { row };
}
