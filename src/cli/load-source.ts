/**
 * What a file holds, as far as has to be known before it is loaded: its form, its header, and the columns that it fills. Owns:
 * every reason why the file and the table do not fit, told before a row is written.
 */
import { readRecords } from "../pipeline.js";
import type { ReadText, TableFacts, TextRows } from "../pipeline.js";
import { usageError } from "./exit.js";
import { cutCsv, cutHeader } from "./load-csv.js";
import type { CsvField, CsvHeader } from "./load-csv.js";
import type { Chunk, ChunkLimits } from "./load-chunk.js";
import type { ByteTape, Input } from "./load-input.js";
import { cutRecords, once } from "./load-lines.js";
import type { RowProblem } from "./load-lines.js";

export type LoadFormat = "ndjson" | "csv";

export interface SourceOptions {
  readonly format: LoadFormat | undefined;
  /** Undefined: the columns of the table that the file names. */
  readonly columns: readonly string[] | undefined;
  readonly hasHeader: boolean;
  readonly delimiter: string | undefined;
  readonly nullText: string;
  readonly maxRecordBytes: number;
}

export interface Source {
  /** There is nothing in it, so that it names no columns. */
  readonly isEmpty: boolean;
  readonly columns: readonly string[];
  /** Names in the file that the table has no column for. */
  readonly unknown: readonly string[];
  /** What makes the same bytes mean other rows. */
  readonly meaning: unknown;
  readonly firstLine: number;
  /** Tells it how values are read; before the first chunk. */
  readWith(rows: TextRows): void;
  /** The next chunk; undefined at the end of the file. */
  cut(line: number, limits: ChunkLimits): Promise<Chunk | undefined>;
}

const formats: Readonly<Record<string, LoadFormat>> = {
  ".ndjson": "ndjson",
  ".jsonl": "ndjson",
  ".json": "ndjson",
  ".csv": "csv",
  ".tsv": "csv",
};

/** Reads what has to be known. The tape is at the first record afterwards. */
export async function openSource(
  input: Input,
  options: SourceOptions,
  table: TableFacts,
): Promise<Source> {
  const ending = /\.[^.]*$/.exec(input.plainName)?.[0].toLowerCase() ?? "";
  const format = options.format ?? formats[ending];
  if (format === undefined)
    throw usageError("In which format is it? Give --format ndjson or --format csv.");
  return format === "csv"
    ? openCsv(input, options, table, ending === ".tsv" ? "\t" : ",")
    : openLines(input, options, table);
}

async function openCsv(
  { tape }: Input,
  options: SourceOptions,
  table: TableFacts,
  usualDelimiter: string,
): Promise<Source> {
  const delimiter = options.delimiter ?? usualDelimiter;
  const { nullText, maxRecordBytes, hasHeader } = options;
  const csv = { delimiter, nullText, maxRecordBytes };
  const { names, nextLine } = hasHeader
    ? checkHeader(await cutHeader(tape, csv))
    : { names: options.columns ?? [], nextLine: 1 };
  if (names.length === 0)
    throw usageError("With --no-header, --columns must name what each record holds, in order.");
  const absent = options.columns?.filter((column) => !names.includes(column)) ?? [];
  if (absent.length > 0)
    throw usageError(`The file has no column ${absent.join(", ")}. It has: ${names.join(", ")}.`);
  const columns = options.columns ?? names.filter((name) => table.columns.includes(name));
  let fields: readonly CsvField[] = [];
  return {
    isEmpty: false,
    columns,
    unknown: options.columns === undefined ? names.filter((name) => !columns.includes(name)) : [],
    meaning: ["csv", delimiter, nullText, names],
    firstLine: nextLine,
    readWith: (rows) => {
      fields = columns.map((name) => ({
        name,
        place: names.indexOf(name),
        read: rows.reader(name),
      }));
    },
    cut: (line, limits) => cutCsv(tape, line, { ...csv, width: names.length, fields }, limits),
  };
}

function checkHeader(header: CsvHeader | undefined): CsvHeader {
  if (header === undefined)
    throw usageError("The file has no header. Where it has none, give --no-header and --columns.");
  const { names } = header;
  const twice = names.find((name, index) => names.indexOf(name) !== index);
  if (twice !== undefined) throw usageError(`The header names ${twice} twice.`);
  return header;
}

/** Records of JSON name their own fields: those at the beginning of the file are looked at. */
async function openLines(
  { tape }: Input,
  { columns: given, maxRecordBytes }: SourceOptions,
  table: TableFacts,
): Promise<Source> {
  const { names, isEmpty } = await namesAtStart(tape, maxRecordBytes);
  const named = given === undefined ? names : new Set(given);
  const columns = given ?? table.columns.filter((name) => named.has(name));
  const others = given === undefined ? table.columns.filter((name) => !named.has(name)) : [];
  let readers: readonly (readonly [string, ReadText])[] = [];
  return {
    isEmpty,
    columns,
    unknown: [...named].filter((name) => !table.columns.includes(name)),
    meaning: ["ndjson"],
    firstLine: 1,
    readWith: (rows) => {
      readers = columns.flatMap((name) => {
        const read = rows.jsonReader(name);
        return read === undefined ? [] : [[name, read] as const];
      });
    },
    cut: (line, limits) => cutRecords(tape, line, limits, (row) => faultOf(row, others, readers)),
  };
}

/** Records that are not complete by then, and those that are none, name nothing. */
const lookedAtBytes = 1024 * 1024;
const lookedAtForArray = 1024;

async function namesAtStart(
  tape: ByteTape,
  maxRecordBytes: number,
): Promise<{ readonly names: Set<string>; readonly isEmpty: boolean }> {
  const bytes = await tape.take(lookedAtBytes);
  tape.unread(bytes);
  if (/^\uFEFF?\s*\[\s*[{\]]/.test(bytes.toString("utf8", 0, lookedAtForArray)))
    throw usageError("It is a JSON array, and must have a record on each line: jq -c '.[]' FILE.");
  const names = new Set<string>();
  for await (const { values } of readRecords(once(bytes), { maxRecordBytes }))
    for (const value of values)
      if (typeof value === "object" && value !== null && !Array.isArray(value))
        for (const name of Object.keys(value)) names.add(name);
  return { names, isEmpty: bytes.length === 0 };
}

/** Reads texts that stand for something else, in place. A column that nobody was told of must not be left out in silence. */
function faultOf(
  row: Record<string, unknown>,
  others: readonly string[],
  readers: readonly (readonly [string, ReadText])[],
): RowProblem | undefined {
  const surprise = others.find((name) => row[name] !== undefined);
  if (surprise !== undefined)
    return {
      column: surprise,
      problem: "is not named at the beginning of the file: name the columns with --columns",
    };
  for (const [name, read] of readers) {
    const value = row[name];
    if (typeof value !== "string") continue;
    const result = read(value);
    if ("problem" in result) return { column: name, problem: result.problem };
    row[name] = result.value;
  }
  return undefined;
}
