/** The options of the merge sink: their meaning, defaults, units and relations. */
import { z } from "zod";
import { systemClock } from "../core/clock.js";
import type { Clock } from "../core/clock.js";
import { IdempotencyError } from "../core/errors.js";
import type { BadRow, SinkDescription, SinkRow } from "./description.js";
import type { MergeEngine } from "./merge-engine.js";
import { positionColumn } from "./merge-sql.js";
import type { MergeTarget } from "./merge-sql.js";

export interface MergeSinkOptions<Row extends object = SinkRow> extends SinkDescription {
  /** How statements are run, and in which dialect. */
  readonly engine: MergeEngine;
  /**
   * Columns by which the target is partitioned, so that a MERGE reads only the partitions of its batch. They must follow from the key:
   * an event that comes again with another partition would be a new row. Default: none.
   */
  readonly partition?: string | readonly string[];
  /** Rows of a batch. Default 1,000, and 250,000 for delta, where each batch is a commit and some files. */
  readonly batchRows?: number;
  /**
   * How long a batch that is not full waits for more rows, in ms. Default: until it is full or the rows end, so that the same rows
   * always make the same batches.
   */
  readonly batchMs?: number;
  /** Takes rows that cannot be stored; the rest of their batch goes on. Without it, such a row fails its batch with `row_invalid`. */
  readonly onBadRow?: (bad: BadRow<Row>) => void | Promise<void>;
  /** How long a batch is tried again after conflicts, in ms. Default 120 s. */
  readonly retryForMs?: number;
  /** After which time a Parquet file that a dead process left behind is removed, in ms. Default 1 day. Only for delta. */
  readonly keepFilesMs?: number;
  /** For tests. */
  readonly clock?: Clock;
}

export interface ResolvedMerge<Row extends object> {
  readonly engine: MergeEngine;
  readonly target: MergeTarget;
  readonly batchRows: number;
  readonly batchMs: number | undefined;
  readonly onBadRow: MergeSinkOptions<Row>["onBadRow"];
  readonly retryForMs: number;
  readonly keepFilesMs: number;
  readonly clock: Clock;
}

/** setTimeout's largest delay; a longer one would fire at once. */
const longestTimerMs = 2 ** 31 - 1;
const name = z
  .string()
  .min(1)
  .max(255)
  .refine((value) => !value.includes("\0"), "must not hold a NUL character");
const names = z.union([name, z.array(name).min(1).max(32)]);
const isFunction = (value: unknown): boolean => typeof value === "function";
const callback = z.custom(isFunction, { error: "must be a function" });
const isConflict = callback.optional();

const engine = z.discriminatedUnion("dialect", [
  z.strictObject({
    dialect: z.enum(["postgres", "duckdb", "mysql", "sqlite"]),
    run: callback,
    isConflict,
  }),
  z.strictObject({
    dialect: z.literal("delta"),
    run: callback,
    isConflict,
    storage: z.custom((value) => isFunction((value as { write?: unknown } | undefined)?.write), {
      error: "must be a storage such as folderStorage makes",
    }),
    writeParquet: callback,
  }),
]);

const shape = z.strictObject({
  table: z
    .string()
    .regex(/^[^.\0]{1,255}(?:\.[^.\0]{1,255}){0,2}$/, "must be a table, or schema.table"),
  key: names,
  columns: z.array(name).min(1).max(1_600),
  onDuplicate: z.enum(["ignore", "overwrite"]),
  version: name.optional(),
  engine,
  partition: names.optional(),
  batchRows: z.number().int().min(1).max(5_000_000).optional(),
  batchMs: z.number().int().min(1).max(longestTimerMs).optional(),
  onBadRow: callback.optional(),
  retryForMs: z.number().int().min(0).max(longestTimerMs).optional(),
  keepFilesMs: z.number().int().min(60_000).max(315_360_000_000).optional(),
  clock: z.custom<Clock>().optional(),
});

const day = 86_400_000;

/** @throws `options_invalid` that lists every problem. */
export function resolveMerge<Row extends object>(given: MergeSinkOptions<Row>): ResolvedMerge<Row> {
  const result = shape.safeParse(given);
  const problems = result.success ? relations(given) : result.error.issues.flatMap(describe);
  if (problems.length > 0)
    throw new IdempotencyError("options_invalid", {
      detail: `Options of mergeSink: ${problems.join("; ")}.`,
    });
  const { table, columns, onDuplicate, version } = given;
  return {
    engine: given.engine,
    target: {
      table,
      columns,
      onDuplicate,
      key: listOf(given.key),
      partition: listOf(given.partition),
      ...(version === undefined ? {} : { version }),
    },
    batchRows: given.batchRows ?? (given.engine.dialect === "delta" ? 250_000 : 1_000),
    batchMs: given.batchMs,
    onBadRow: given.onBadRow,
    retryForMs: given.retryForMs ?? 120_000,
    keepFilesMs: given.keepFilesMs ?? day,
    clock: given.clock ?? systemClock,
  };
}

function listOf(value: string | readonly string[] | undefined): readonly string[] {
  if (value === undefined) return [];
  return typeof value === "string" ? [value] : value;
}

function describe(issue: z.core.$ZodIssue): string[] {
  if (issue.code === "unrecognized_keys")
    return issue.keys.map((key) => `${[...issue.path, key].join(".")}: is not an option`);
  return [`${issue.path.join(".") || "options"}: ${issue.message}`];
}

function relations(given: MergeSinkOptions<never>): string[] {
  const { columns, version, onDuplicate, keepFilesMs, retryForMs } = given;
  const keys = listOf(given.key);
  const partition = listOf(given.partition);
  const problems = [...keys, ...partition, ...(version === undefined ? [] : [version])]
    .filter((column) => !columns.includes(column))
    .map((column) => `columns: ${column} must be among them`);
  // Most of these engines do not tell a and A apart.
  if (new Set(columns.map((column) => column.toLowerCase())).size !== columns.length)
    problems.push("columns: one is named twice");
  if (columns.includes(positionColumn)) problems.push(`columns: ${positionColumn} is taken`);
  if (new Set(keys).size !== keys.length) problems.push("key: one column is named twice");
  if (version !== undefined && onDuplicate === "ignore")
    problems.push("version: only with onDuplicate: overwrite");
  if (version !== undefined && keys.includes(version))
    problems.push("version: must not be part of the key");
  if (keepFilesMs !== undefined && retryForMs !== undefined && keepFilesMs <= 2 * retryForMs)
    problems.push(`keepFilesMs (${keepFilesMs}) must be over twice retryForMs (${retryForMs})`);
  return problems;
}
