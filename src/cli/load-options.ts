/** The options of `oncekey load`: how they are read, and which of them go together. */
import { InvalidArgumentError } from "commander";
import type { Command } from "commander";
import type { PlaceOptions } from "./connect.js";
import { usageError } from "./exit.js";
import type { LoadFormat, SourceOptions } from "./load-source.js";

export interface LoadOptions extends PlaceOptions, SourceOptions {
  /** `-` is standard input. */
  readonly file: string;
  readonly table: string;
  readonly key: readonly string[];
  readonly onDuplicate: "ignore" | "overwrite";
  readonly versionColumn: string | undefined;
  readonly batchRows: number;
  readonly writers: number;
  readonly badRows: string | undefined;
  readonly maxBadRows: number;
  readonly dryRun: boolean;
  readonly restart: boolean;
}

/** As commander gives them. */
export interface GivenLoad {
  readonly table: string;
  readonly key: readonly string[];
  readonly columns?: readonly string[];
  readonly format?: LoadFormat;
  readonly onDuplicate: "ignore" | "overwrite";
  readonly versionColumn?: string;
  readonly header: boolean;
  readonly delimiter?: string;
  readonly null: string;
  readonly batchRows: number;
  readonly maxRecordBytes: number;
  readonly writers?: number;
  readonly badRows?: string;
  readonly maxBadRows?: number;
  readonly dryRun?: boolean;
  readonly restart?: boolean;
}

const defaultBatchRows = 10_000;
const mostBatchRows = 100_000;
const defaultRecordBytes = 1024 * 1024;
const mostRecordBytes = 64 * 1024 * 1024;
const mostWriters = 16;
const defaultWriters = 2;

export function addLoadOptions(command: Command): Command {
  return command
    .requiredOption("--table <name>", "table, or schema.table, as the catalog spells it")
    .requiredOption("--key <columns>", "its key, several columns by comma", names)
    .option(
      "--columns <names>",
      "columns to fill, by comma (default: all that the file names)",
      names,
    )
    .option(
      "--format <name>",
      "ndjson or csv (default: by the ending of the file)",
      oneOf("ndjson", "csv"),
    )
    .option(
      "--on-duplicate <what>",
      "ignore or overwrite",
      oneOf("ignore", "overwrite"),
      "overwrite",
    )
    .option("--version-column <name>", "an older record never overwrites a newer one")
    .option("--no-header", "CSV: the first record is one as the others; needs --columns")
    .option("--delimiter <character>", "CSV: between fields; tab for a tab (default: ,)", delimiter)
    .option("--null <text>", "CSV: what stands for NULL where it is not in quotation marks", "")
    .option(
      "--batch-rows <n>",
      "most records of one transaction",
      within(1, mostBatchRows),
      defaultBatchRows,
    )
    .option(
      "--max-record-bytes <n>",
      "longest record",
      within(16, mostRecordBytes),
      defaultRecordBytes,
    )
    .option(
      "--writers <n>",
      "batches written at once (default: 2 with --version-column, else 1)",
      within(1, mostWriters),
    )
    .option("--bad-rows <file>", "set records aside into this file that cannot be stored")
    .option(
      "--max-bad-rows <n>",
      "give up when there are more (default: no limit)",
      within(0, 2 ** 31 - 1),
    )
    .option("--dry-run", "read and check everything, and write nothing")
    .option("--restart", "begin anew where an earlier run of this command was stopped");
}

/** @throws CommandError for what does not go together. */
export function readLoadOptions(file: string, place: PlaceOptions, given: GivenLoad): LoadOptions {
  const { versionColumn, badRows, maxBadRows, writers, onDuplicate } = given;
  if (versionColumn !== undefined && onDuplicate === "ignore")
    throw usageError("--version-column goes with --on-duplicate overwrite.");
  if (maxBadRows !== undefined && badRows === undefined)
    throw usageError("--max-bad-rows needs --bad-rows: without it the first one ends the load.");
  if (writers !== undefined && writers > 1 && versionColumn === undefined)
    throw usageError(
      "Several --writers need a --version-column: without it the order of the file decides.",
    );
  return {
    ...place,
    file,
    table: given.table,
    key: given.key,
    columns: given.columns,
    format: given.format,
    onDuplicate,
    versionColumn,
    hasHeader: given.header,
    delimiter: given.delimiter,
    nullText: given.null,
    batchRows: given.batchRows,
    maxRecordBytes: given.maxRecordBytes,
    writers: writers ?? (versionColumn === undefined ? 1 : defaultWriters),
    badRows,
    maxBadRows: maxBadRows ?? (badRows === undefined ? 0 : Number.POSITIVE_INFINITY),
    dryRun: given.dryRun === true,
    restart: given.restart === true,
  };
}

function names(text: string): readonly string[] {
  const found = text.split(",").map((name) => name.trim());
  if (found.includes("")) throw new InvalidArgumentError("It must be names with commas between.");
  if (new Set(found).size < found.length) throw new InvalidArgumentError("One is named twice.");
  return found;
}

function oneOf<T extends string>(...known: readonly T[]): (text: string) => T {
  return (text) => {
    const found = known.find((name) => name === text);
    if (found === undefined) throw new InvalidArgumentError(`It must be ${known.join(" or ")}.`);
    return found;
  };
}

function within(least: number, most: number): (text: string) => number {
  return (text) => {
    const number = /^\d{1,13}$/.test(text) ? Number(text) : Number.NaN;
    if (!(number >= least && number <= most))
      throw new InvalidArgumentError(`It must be a whole number from ${least} to ${most}.`);
    return number;
  };
}

function delimiter(text: string): string {
  if (text === "tab" || text === "\\t") return "\t";
  if (text.length !== 1 || '"\r\n'.includes(text))
    throw new InvalidArgumentError("It must be one character.");
  return text;
}
