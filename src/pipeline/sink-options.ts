/** The options of the sink: their meaning, defaults, units and relations. */
import type { Pool } from "pg";
import { z } from "zod";
import { systemClock } from "../core/clock.js";
import type { Clock } from "../core/clock.js";
import { IdempotencyError } from "../core/errors.js";
import { keyOf } from "./catalog.js";
import type { BadRow, InTransaction, SinkDescription, SinkRow } from "./description.js";

export interface UpsertSinkOptions<Row extends object = SinkRow> extends SinkDescription {
  /** A `pg.Pool`. The sink opens `writers` connections of its own with the same settings and never ends the pool. */
  readonly pool: Pool;
  /** Schema of oncekey's own tables, where the ledger of batches is. Default `public`. */
  readonly schema?: string;
  /** Most rows of a batch. Default 10,000. */
  readonly batchRows?: number;
  /** Most bytes of a batch, as Postgres gets them. Default 8 MiB. */
  readonly maxBatchBytes?: number;
  /** How long a batch that is not full waits for more rows, in ms. Default 200. */
  readonly batchMs?: number;
  /** Batches written at the same time, each on a connection of its own. Default 2. */
  readonly writers?: number;
  /**
   * Takes rows that cannot be stored, before the rest of their batch is committed. A row can come twice where a batch is tried
   * again by another process. What it throws fails the batch. Without it such a row fails its batch with `row_invalid`.
   */
  readonly onBadRow?: (bad: BadRow<Row>) => void | Promise<void>;
  /** Keys that look like counters or times of processing: `reject` takes their rows for bad ones. Default `allow`. */
  readonly weakKeys?: "allow" | "reject";
  /** Runs in each batch's transaction, with its rows staged, before they are upserted. */
  readonly inTransaction?: InTransaction<Row>;
  /**
   * Whether rows that are new may be copied straight into the table where that does the same as INSERT. Default true. False stages
   * every batch: better where several processes write the same new keys at the same time.
   */
  readonly copyDirectly?: boolean;
  /** Milliseconds after which a statement is given up. Default 60 s. */
  readonly timeoutMs?: number;
  /** How long a batch is tried again after conflicts and lost connections, in ms. Default 120 s. */
  readonly retryForMs?: number;
  /** How long the ledger remembers a batch, in ms: no shorter than it is tried again. Default 7 days. */
  readonly keepBatchesMs?: number;
  /** As for `postgresStore`: `"transaction"` behind a pooler that hands out a session for one transaction at a time. */
  readonly pooler?: "transaction";
  /** For tests. */
  readonly clock?: Clock;
}

/** Options with every default in place. */
export type ResolvedSink<Row extends object> = Required<
  Omit<UpsertSinkOptions<Row>, "onBadRow" | "inTransaction" | "pooler" | "version">
> &
  Pick<UpsertSinkOptions<Row>, "onBadRow" | "inTransaction" | "pooler" | "version">;

/** setTimeout's largest delay; a longer one would fire at once. */
const longestTimerMs = 2 ** 31 - 1;
const timerMs = z.number().int().min(1).max(longestTimerMs);
const name = z.string().min(1).max(63);
const callback = z.custom((value) => typeof value === "function", { error: "must be a function" });
const day = 86_400_000;
const defaultRetryForMs = 120_000;
const defaultKeepBatchesMs = 7 * day;

const shape = z.strictObject({
  table: z.string().regex(/^[^.]{1,63}(?:\.[^.]{1,63})?$/, "must be a table, or schema.table"),
  key: z.union([name, z.array(name).min(1).max(32)]),
  columns: z.array(name).min(1).max(1_600),
  onDuplicate: z.enum(["ignore", "overwrite"]),
  version: name.optional(),
  pool: z.custom(
    (value) => typeof (value as { connect?: unknown } | null | undefined)?.connect === "function",
    { error: "must be a pool of pg" },
  ),
  schema: z.string().optional(),
  batchRows: z.number().int().min(1).max(100_000).optional(),
  maxBatchBytes: z
    .number()
    .int()
    .min(1_024)
    .max(2 ** 28)
    .optional(),
  batchMs: timerMs.optional(),
  writers: z.number().int().min(1).max(64).optional(),
  onBadRow: callback.optional(),
  weakKeys: z.enum(["allow", "reject"]).optional(),
  inTransaction: callback.optional(),
  copyDirectly: z.boolean().optional(),
  timeoutMs: timerMs.optional(),
  retryForMs: z.number().int().min(0).max(longestTimerMs).optional(),
  keepBatchesMs: z.number().int().min(60_000).max(315_360_000_000).optional(),
  pooler: z.literal("transaction").optional(),
  clock: z.custom<Clock>().optional(),
});

/** @throws `options_invalid` that lists every problem. */
export function resolveSink<Row extends object>(given: UpsertSinkOptions<Row>): ResolvedSink<Row> {
  const result = shape.safeParse(given);
  const problems = result.success ? relations(given) : result.error.issues.flatMap(describe);
  if (problems.length > 0)
    throw new IdempotencyError("options_invalid", {
      detail: `Options of upsertSink: ${problems.join("; ")}.`,
    });
  return {
    schema: "public",
    batchRows: 10_000,
    maxBatchBytes: 8 * 1024 * 1024,
    batchMs: 200,
    writers: 2,
    weakKeys: "allow",
    copyDirectly: true,
    timeoutMs: 60_000,
    retryForMs: defaultRetryForMs,
    keepBatchesMs: defaultKeepBatchesMs,
    clock: systemClock,
    ...withoutUndefined(given),
  };
}

/** An option that is spelt out as undefined has its default. */
function withoutUndefined<T extends object>(given: T): T {
  return Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined)) as T;
}

function describe(issue: z.core.$ZodIssue): string[] {
  if (issue.code === "unrecognized_keys")
    return issue.keys.map((key) => `${key}: is not an option`);
  return [`${issue.path.join(".") || "options"}: ${issue.message}`];
}

function relations({
  key,
  columns,
  version,
  onDuplicate,
  retryForMs,
  timeoutMs,
  keepBatchesMs = defaultKeepBatchesMs,
}: UpsertSinkOptions<never>): string[] {
  const keys = keyOf({ key });
  const missing = [...keys, ...(version === undefined ? [] : [version])].filter(
    (column) => !columns.includes(column),
  );
  const problems = missing.map((column) => `columns: ${column} must be among them`);
  if (new Set(columns).size !== columns.length) problems.push("columns: one is named twice");
  if (new Set(keys).size !== keys.length) problems.push("key: one column is named twice");
  if (version !== undefined && onDuplicate === "ignore")
    problems.push("version: only with onDuplicate: overwrite");
  if (version !== undefined && keys.includes(version))
    problems.push("version: must not be part of the key");
  if (
    retryForMs !== undefined &&
    timeoutMs !== undefined &&
    retryForMs < timeoutMs &&
    retryForMs > 0
  )
    problems.push(`retryForMs (${retryForMs}) must be at least timeoutMs (${timeoutMs}), or 0`);
  // A batch that the ledger has forgotten by then would be written and counted again.
  const retriesMs = retryForMs ?? defaultRetryForMs;
  if (keepBatchesMs < retriesMs)
    problems.push(`keepBatchesMs (${keepBatchesMs}) must be at least retryForMs (${retriesMs})`);
  return problems;
}
