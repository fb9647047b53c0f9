/**
 * What an aggregate is told: its meaning, defaults and units. Owns: the one validation, which reports every problem at once.
 */
import type { Pool, PoolClient } from "pg";
import { z } from "zod";
import { IdempotencyError } from "../core/errors.js";

/** The time zone of a day: an IANA name for all, or a column of a table that knows it for some of the key's columns. */
export type DayTimeZone =
  | string
  | {
      /** `merchants`, or with its schema. */
      readonly table: string;
      /** Columns that the table shares with the key, such as `["merchant_id"]`; unique in it. */
      readonly on: readonly string[];
      /** The column with the IANA name. A name that Postgres does not know fails every write of events: check it on the way in. */
      readonly column: string;
      /** For keys without a row. Default `UTC`. */
      readonly otherwise?: string;
    };

/** An aggregate of events: one row for each key and day. */
export interface AggregateOptions {
  /** A `pg.Pool` on the database of the events. Each recompute holds one connection of it. Never ended. */
  readonly pool: Pool;
  /** Schema of oncekey's own tables (`npx oncekey migrate`). Default `public`. */
  readonly schema?: string;
  /** Table of the events, `events` or `sales.events`, as it is spelt in the catalog. */
  readonly source: string;
  /** Table of the aggregate, with a unique index on exactly `key` and the day's column. */
  readonly target: string;
  /** Columns that both tables have, such as `["merchant_id", "currency"]`. An event where one of them is NULL belongs to no row. */
  readonly key: readonly string[];
  /** The day, which is the last part of the key. */
  readonly day: {
    /** The target's column of type `date`. */
    readonly column: string;
    /** The event's own time, a `timestamptz`. Never the time of processing, which another run would change. */
    readonly of: string;
    /** Whose day. Default `UTC`. */
    readonly timeZone?: DayTimeZone;
  };
  /**
   * The target's other columns, each by an aggregate expression over the event's columns: `{ amount: "sum(amount)" }`. These are
   * SQL and part of your program: never make them of anything that came from outside.
   */
  readonly values: Readonly<Record<string, string>>;
  /**
   * Most keys of one transaction, which are computed by one look at their events. Default 2,000; more where no index finds the
   * events of one key.
   */
  readonly batchKeys?: number;
  /** Longest statement, in ms; Postgres ends it then. Default 10 min; 0: no limit. */
  readonly timeoutMs?: number;
}

/** A key of an aggregate: values by the names of the key's columns, and the day as `2026-01-31`. */
export type AggregateKey = Readonly<Record<string, string | number | boolean>>;

/** What a recompute came to. */
export interface RecomputeCounts {
  /** Keys that were computed. */
  readonly keys: number;
  /** Rows that were written because they differ from before. */
  readonly written: number;
  /** Rows that went away, since no event is left for them. */
  readonly removed: number;
  /** Keys that Postgres could not compute, such as a sum beyond its column's range. They stay dirty, behind the others. */
  readonly failed: number;
}

export interface BackfillOptions {
  /** First and last day, `2026-01-01`, both included. */
  readonly from: string;
  readonly to: string;
  /** Only keys with these values. Default: all. */
  readonly where?: AggregateKey;
  /** Told after each transaction. */
  readonly onProgress?: (progress: BackfillProgress) => void;
  /** Aborted to end after the transaction under way; what was done stays, and another backfill of the rest is harmless. */
  readonly signal?: AbortSignal;
}

export interface BackfillProgress extends RecomputeCounts {
  /** The day at work. */
  readonly day: string;
  readonly daysDone: number;
  readonly daysTotal: number;
}

/** Work in the transaction of {@link Aggregate.changeTimeZone}. */
export type TimeZoneChange = (tx: PoolClient) => Promise<unknown>;

/** Options with every default in place. */
export type ResolvedAggregate = Required<Omit<AggregateOptions, "day">> & {
  readonly day: {
    readonly column: string;
    readonly of: string;
    readonly timeZone: DayTimeZone;
  };
};

const name = z.string().min(1).max(63);
const table = z
  .string()
  .regex(
    /^[^.\0]{1,63}(?:\.[^.\0]{1,63})?$/,
    "must be a table, or a schema and a table with a dot",
  );
const shape = z.strictObject({
  pool: z.custom(
    (pool) => typeof (pool as { connect?: unknown } | undefined)?.connect === "function",
    "must be a pool of pg",
  ),
  schema: name.optional(),
  source: table,
  target: table,
  key: z.array(name).min(1).max(16),
  day: z.strictObject({
    column: name,
    of: name,
    timeZone: z
      .union([
        z.string().min(1).max(64),
        z.strictObject({
          table,
          on: z.array(name).min(1),
          column: name,
          otherwise: z.string().min(1).max(64).optional(),
        }),
      ])
      .optional(),
  }),
  values: z.record(name, z.string().min(1)).refine((values) => Object.keys(values).length > 0, {
    error: "must have a column",
  }),
  batchKeys: z.number().int().min(1).max(10_000).optional(),
  timeoutMs: z.number().int().min(0).max(86_400_000).optional(),
});

/** @throws `options_invalid` that lists every problem. */
export function resolveAggregate(given: AggregateOptions): ResolvedAggregate {
  const result = shape.safeParse(given);
  const problems = (result.error?.issues ?? []).flatMap((issue) =>
    issue.code === "unrecognized_keys"
      ? issue.keys.map((key) => `${key}: is not an option`)
      : [`${issue.path.join(".") || "options"}: ${issue.message}`],
  );
  if (result.success) problems.push(...brokenRelations(given));
  if (problems.length > 0)
    throw new IdempotencyError("options_invalid", {
      detail: `Options of recomputeAggregate: ${problems.join("; ")}.`,
    });
  return {
    pool: given.pool,
    schema: given.schema ?? "public",
    source: given.source,
    target: given.target,
    key: given.key,
    day: { ...given.day, timeZone: given.day.timeZone ?? "UTC" },
    values: given.values,
    batchKeys: given.batchKeys ?? 2_000,
    timeoutMs: given.timeoutMs ?? 600_000,
  };
}

function brokenRelations({ key, day, values }: AggregateOptions): string[] {
  const problems: string[] = [];
  const columns = [...key, day.column, ...Object.keys(values)];
  const twice = columns.filter((column, index) => columns.indexOf(column) !== index);
  if (twice.length > 0) problems.push(`key, day and values name a column twice: ${twice.join()}`);
  const zone = day.timeZone;
  if (typeof zone === "object") {
    const strange = zone.on.filter((column) => !key.includes(column));
    if (strange.length > 0) problems.push(`day.timeZone.on: not in the key: ${strange.join()}`);
  }
  return problems;
}
