/** What `oncekey load` says: on standard output what came of it, on standard error everything else. */
import type { TableFacts } from "../pipeline.js";
import { CommandError, exitCodes } from "./exit.js";
import type { LoadOptions } from "./load-options.js";
import { rate } from "./load-progress.js";
import type { LoadTotals } from "./load-run.js";
import { columns, duration, plain, print, printJson } from "./words.js";

export interface LoadEnd extends LoadTotals {
  readonly elapsedMs: number;
  /** Batches of an earlier run that are not in the file any more. */
  readonly missing: number;
}

const number = (count: number): string => count.toLocaleString("en-US");

export function warn(text: string): void {
  process.stderr.write(`${plain(text)}\n`);
}

export function reportEnd(options: LoadOptions, table: TableFacts, end: LoadEnd): void {
  const { file, dryRun, badRows } = options;
  if (end.missing > 0)
    warn(
      `The file has changed since an earlier run: ${end.missing} of that run's batches are not in it any more. ` +
        "What is in it now is loaded; rows of records that were taken out stay in the table.",
    );
  const { elapsedMs, missing, earlier, ...counts } = end;
  if (options.json) {
    const { records, bad } = counts;
    const shown = dryRun ? { records, bad } : { ...counts, earlier, missing };
    printJson({ file, table: table.target, dryRun, ...shown, elapsedMs: Math.round(elapsedMs) });
    return;
  }
  const speed = `in ${duration(elapsedMs)} (${number(rate(end.records - earlier, elapsedMs))}/s)`;
  print(
    dryRun
      ? `Read ${number(end.records)} records of ${plain(file)} ${speed}, and wrote nothing.`
      : `Loaded ${number(end.records)} records of ${plain(file)} into ${table.target} ${speed}.`,
  );
  const stored: readonly (readonly [string, string | undefined])[] = [
    ["inserted", number(end.inserted)],
    ["updated", number(end.updated)],
    ["unchanged", number(end.unchanged)],
    ["duplicates in a batch", number(end.duplicatesInBatch)],
  ];
  print(
    columns([
      ...(dryRun ? [] : stored),
      [
        "set aside",
        `${number(end.bad)}${badRows === undefined || end.bad === 0 ? "" : ` (${badRows})`}`,
      ],
      ["of an earlier run", earlier === 0 ? undefined : number(earlier)],
    ]),
  );
}

/** It was stopped by a signal. */
export function stopOf(options: LoadOptions, totals: LoadTotals): CommandError {
  return new CommandError(exitCodes.failed, `Stopped. ${soFar(options, totals)}`);
}

/** What it failed with, and what has been done. */
export function failureOf(error: unknown, options: LoadOptions, totals: LoadTotals): unknown {
  if (!(error instanceof Error)) return error;
  const more =
    options.badRows === undefined && error instanceof CommandError
      ? " Set such records aside with --bad-rows FILE."
      : "";
  const message = `${plain(error.message)}${more}\n${soFar(options, totals)}`;
  return new CommandError(exitCodes.failed, message);
}

function soFar({ dryRun, file }: LoadOptions, { records }: LoadTotals): string {
  if (dryRun) return `${number(records)} records were read, and nothing was written.`;
  if (records === 0) return "Nothing was loaded.";
  const next =
    file === "-"
      ? "The same command with the same input passes over them."
      : "The same command goes on behind them.";
  return `${number(records)} records are loaded. ${next}`;
}
