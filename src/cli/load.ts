/**
 * `oncekey load`: a file into a table, each record once. Owns: what is opened and closed, and what a signal does. Must never print
 * a value of a record other than into the file that the user names for it.
 */
import { createHash } from "node:crypto";
import { resolve } from "node:path";
import type pg from "pg";
import { describeTable, forgetBatches, listBatches, textRows, upsertSink } from "../pipeline.js";
import type { BadRow, BatchCounts, SinkDescription, TableFacts, TextRows } from "../pipeline.js";
import { assertSchema } from "../stores/postgres.js";
import { openPool } from "./connect.js";
import { DeadLetters } from "./dead-letters.js";
import { usageError } from "./exit.js";
import type { LoadedRow } from "./load-chunk.js";
import { openInput } from "./load-input.js";
import type { Input } from "./load-input.js";
import type { LoadOptions } from "./load-options.js";
import { showProgress } from "./load-progress.js";
import { failureOf, reportEnd, stopOf, warn } from "./load-report.js";
import { LoadRun } from "./load-run.js";
import type { BadRecord, RunOptions } from "./load-run.js";
import { openSource } from "./load-source.js";
import type { Source } from "./load-source.js";

/** Loads the file, or as much of it as comes before a signal. @throws CommandError where it does not come to its end. */
export async function runLoad(options: LoadOptions): Promise<void> {
  if (options.badRows !== undefined && resolve(options.badRows) === resolve(options.file))
    throw usageError("--bad-rows must be another file than the one that is loaded.");
  const pool = openPool(options.databaseUrl);
  try {
    await assertSchema({ pool, schema: options.schema });
    const table = await describeTable({ pool, table: options.table });
    if (table === undefined) throw usageError(`There is no table ${options.table}.`);
    const input = await openInput(options.file);
    try {
      await loadInput(options, pool, table, input);
    } finally {
      input.stop();
    }
  } finally {
    await pool.end();
  }
}

type WriteRows = RunOptions["write"];
/** Where rows go: a way to write them, and to end it. */
interface Target {
  readonly write: WriteRows;
  readonly close: () => Promise<void>;
}
type OpenTarget = (onBadRow: (bad: BadRow<LoadedRow>) => Promise<void>) => Target;

async function loadInput(
  options: LoadOptions,
  pool: pg.Pool,
  table: TableFacts,
  input: Input,
): Promise<void> {
  const source = await openSource(input, options, table);
  const description = describe(options, source);
  const rows = await textRows({ pool, ...description });
  source.readWith(rows);
  if (source.unknown.length > 0)
    warn(`Not loaded, since ${table.target} has no such columns: ${source.unknown.join(", ")}.`);
  const ledger = {
    pool,
    schema: options.schema,
    target: table.target,
    prefix: prefixOf(options, table, source, input),
  };
  if (options.dryRun) {
    const open: OpenTarget = (onBadRow) => checking(rows, onBadRow);
    await runChunks(
      options,
      table,
      { input, source, prefix: ledger.prefix, known: new Map() },
      open,
    );
    return;
  }
  if (options.restart) await forgetBatches(ledger);
  const known = await listBatches(ledger);
  const { schema } = options;
  const open: OpenTarget = (onBadRow) => {
    const writers = { writers: options.writers, pooler: "transaction" as const };
    const sink = upsertSink<LoadedRow>({ ...description, pool, schema, ...writers, onBadRow });
    return {
      write: (batch, batchId) => sink.writeBatch(batch, { batchId }),
      close: () => sink.close(),
    };
  };
  await runChunks(options, table, { input, source, prefix: ledger.prefix, known }, open);
  // It has come to its end: the same command begins anew.
  await forgetBatches(ledger);
}

/** Says of each row what the sink would say of it. Nothing is known of what the server would. */
function checking(texts: TextRows, onBadRow: (bad: BadRow<LoadedRow>) => Promise<void>): Target {
  const write = async (rows: readonly LoadedRow[]): Promise<BatchCounts> => {
    let good = 0;
    for (const [index, row] of rows.entries()) {
      const fault = texts.check(row);
      if (fault === undefined) good += 1;
      else {
        const { column, problem } = fault;
        const reason = `${column} ${problem}.`;
        await onBadRow({ row, rowNumber: index + 1, key: undefined, column, reason });
      }
    }
    return { inserted: 0, updated: 0, unchanged: good, duplicatesInBatch: 0 };
  };
  return { write, close: async () => undefined };
}

async function runChunks(
  options: LoadOptions,
  table: TableFacts,
  context: Pick<RunOptions, "input" | "source" | "prefix" | "known">,
  open: OpenTarget,
): Promise<void> {
  const { input, known } = context;
  const letters =
    options.badRows === undefined ? undefined : await DeadLetters.open(options.badRows);
  if (known.size > 0)
    warn("An earlier run of this load was stopped: what it has loaded is passed over.");
  const startedMs = performance.now();
  const progress = showProgress(input.bytes);
  const stop = stopOnSignals(input);
  const { batchRows: maxRecords, maxRecordBytes, maxBadRows, writers } = options;
  const target = open((bad) => run.badRow(bad));
  const run: LoadRun = new LoadRun({
    ...context,
    writers,
    maxBadRows,
    write: target.write,
    limits: { maxRecords, maxRecordBytes },
    onBad: async (bad: BadRecord) => letters?.add({ file: options.file, ...bad }),
    onProgress: ({ records }) => progress.show(records, input.readBytes()),
    isStopped: () => stop.isStopped,
  });
  let outcome: "done" | "stopped";
  try {
    outcome = await run.run();
  } catch (error) {
    throw failureOf(error, options, run.totals);
  } finally {
    progress.stop();
    stop.forget();
    await target.close();
    await letters?.close();
  }
  if (outcome === "stopped") throw stopOf(options, run.totals);
  const elapsedMs = performance.now() - startedMs;
  reportEnd(options, table, { ...run.totals, elapsedMs, missing: run.missing });
}

function describe(options: LoadOptions, { columns: named, isEmpty }: Source): SinkDescription {
  const { table, key, onDuplicate, versionColumn } = options;
  const wanted = [...key, ...(versionColumn === undefined ? [] : [versionColumn])];
  const columns = isEmpty ? wanted : named;
  const absent = wanted.filter((column) => !columns.includes(column));
  if (absent.length > 0) {
    const where = options.columns === undefined ? "The file does not name" : "--columns leaves out";
    throw usageError(`${where} ${absent.join(", ")}, which the key or the version needs.`);
  }
  return {
    table,
    key,
    columns,
    onDuplicate,
    ...(versionColumn === undefined ? {} : { version: versionColumn }),
  };
}

/**
 * What the batches of this very load begin with. Of another file, table or meaning of the bytes it is another one; and so it is
 * when the table was truncated meanwhile, since what was loaded is not there any more.
 */
function prefixOf(
  options: LoadOptions,
  table: TableFacts,
  source: Source,
  { path }: Input,
): string {
  const { key, onDuplicate, versionColumn, maxRecordBytes } = options;
  const how = [key, onDuplicate, versionColumn ?? null, maxRecordBytes, source.meaning];
  const what = [path, table.target, table.storage, source.columns, ...how];
  return `load:${createHash("sha256").update(JSON.stringify(what)).digest("hex").slice(0, 32)}:`;
}

interface Stopping {
  isStopped: boolean;
  /** Gives the signals back. */
  forget(): void;
}

const signals = ["SIGINT", "SIGTERM"] as const;

/** The first signal ends the reading, and what was begun is finished. The second one ends the program as usual. */
function stopOnSignals(input: Input): Stopping {
  const forget = (): void => {
    for (const signal of signals) process.removeListener(signal, onSignal);
  };
  const onSignal = (): void => {
    stopping.isStopped = true;
    input.stop();
    forget();
    // On a terminal, the progress bar's line is left as it is.
    const newLine = process.stderr.isTTY ? "\n" : "";
    process.stderr.write(
      `${newLine}Stopping: what was begun is finished. A second signal ends it at once.\n`,
    );
  };
  const stopping: Stopping = { isStopped: false, forget };
  for (const signal of signals) process.on(signal, onSignal);
  return stopping;
}
