/** The options of the outbox worker: their meaning, defaults, units and relations. */
import type { Pool } from "pg";
import { z } from "zod";
import { systemClock } from "../core/clock.js";
import type { Clock } from "../core/clock.js";
import { defaultKeepDeliveredMs } from "../stores/outbox-operations.js";
import { checkOptions } from "./check-options.js";
import type { Destination } from "./destination.js";
import { standardRetryDelaysMs } from "./retry-schedule.js";

/** What happened to a message. No payload, key or scope; errors are those of the destination or of Postgres. */
export type OutboxEvent =
  /** The receiver has it. `ageMs`: since it was written; `durationMs`: of this attempt. */
  | {
      readonly type: "delivered";
      readonly topic: string;
      readonly attempt: number;
      readonly ageMs: number;
      readonly durationMs: number;
    }
  | {
      readonly type: "failed";
      readonly topic: string;
      readonly attempt: number;
      readonly retryInMs: number;
      readonly error: unknown;
    }
  /**
   * It needs an operator: no attempt is left, the destination said that none will succeed, or the process of the last one
   * went away.
   */
  | {
      readonly type: "set_aside";
      readonly topic: string;
      readonly attempt: number;
      readonly because: "exhausted" | "permanent" | "abandoned";
      readonly error: unknown;
    }
  /** What came of an attempt was noted too late: another worker has the message. */
  | { readonly type: "lost"; readonly topic: string }
  /** The destination did not end within the lease, and the message is delivered again. */
  | { readonly type: "overrun"; readonly topic: string }
  /** The outbox could not be reached; `during` names what was tried. */
  | { readonly type: "store_error"; readonly during: string; readonly error: unknown };

export interface OutboxWorkerOptions {
  /** A `pg.Pool`. The worker opens 3 connections of its own with the same settings and never ends the pool. */
  readonly pool: Pool;
  /** Schema of the tables. Default `public`. */
  readonly schema?: string;
  /** Where messages go: `webhookDestination(…)`, `redisStreamDestination(…)` or your own. */
  readonly destination: Destination;
  /** Most deliveries at a time. Default 10. */
  readonly concurrency?: number;
  /**
   * How long a message is this worker's, in ms, by the database's clock. A delivery is told to stop after three quarters of
   * it. Default 60 s.
   */
  readonly leaseMs?: number;
  /** How often an idle worker looks for due messages, in ms. Commits of this process wake it at once. Default 1 s. */
  readonly pollMs?: number;
  /**
   * Pauses after each failed attempt, in ms; one more attempt than pauses. Each is lengthened by up to a tenth at random.
   * Default: those of the Standard Webhooks specification, ten attempts in three days.
   */
  readonly retryDelaysMs?: readonly number[];
  /** How long finished messages are kept, in ms. Default 7 days. */
  readonly keepDeliveredMs?: number;
  /** How often finished messages are removed, in ms. Default 60 s. */
  readonly reapEveryMs?: number;
  /** Milliseconds after which a statement of the worker is given up. Default 5000. */
  readonly timeoutMs?: number;
  /** Named prepared statements; set to false behind a pooler that does not know them. Default true. */
  readonly prepare?: boolean;
  /** As for `postgresStore`: `"transaction"` behind a pooler that hands out a session for one transaction at a time. */
  readonly pooler?: "transaction";
  /** Observers; what they throw is dropped. */
  readonly hooks?: { readonly onEvent?: (event: OutboxEvent) => void };
  /** For tests. */
  readonly clock?: Clock;
}

/** Options with every default in place. */
export type ResolvedWorker = Required<Omit<OutboxWorkerOptions, "hooks" | "pooler">> & {
  readonly pooler: "transaction" | undefined;
  readonly onEvent: (event: OutboxEvent) => void;
};

/** setTimeout's largest delay; a longer one would fire at once. */
const longestTimerMs = 2 ** 31 - 1;
const timerMs = z.number().int().min(1).max(longestTimerMs);
const windowMs = z.number().int().min(0).max(315_360_000_000);

const shape = z.strictObject({
  pool: hasMethod("connect", "must be a pool of pg"),
  schema: z.string().optional(),
  destination: hasMethod("deliver", "must be a destination such as webhookDestination({ … })"),
  concurrency: z.number().int().min(1).max(1_000).optional(),
  leaseMs: timerMs.optional(),
  pollMs: timerMs.optional(),
  retryDelaysMs: z.array(windowMs).max(1_000).optional(),
  keepDeliveredMs: windowMs.optional(),
  reapEveryMs: timerMs.optional(),
  timeoutMs: timerMs.optional(),
  prepare: z.boolean().optional(),
  pooler: z.literal("transaction").optional(),
  hooks: z.strictObject({ onEvent: z.custom(isFunction).optional() }).optional(),
  clock: z.custom<Clock>().optional(),
});

/** @throws `options_invalid` that lists every problem. */
export function resolveWorker(given: OutboxWorkerOptions): ResolvedWorker {
  const { leaseMs = 60_000, timeoutMs = 5_000 } = given ?? {};
  // A quarter of the lease is left to note what came of a delivery.
  const relations =
    leaseMs < 4 * timeoutMs
      ? [`leaseMs (${leaseMs}) must be at least four times timeoutMs (${timeoutMs})`]
      : [];
  checkOptions("outboxWorker", shape, given, relations);
  return {
    pool: given.pool,
    schema: given.schema ?? "public",
    destination: given.destination,
    concurrency: given.concurrency ?? 10,
    leaseMs,
    pollMs: given.pollMs ?? 1_000,
    retryDelaysMs: given.retryDelaysMs ?? standardRetryDelaysMs,
    keepDeliveredMs: given.keepDeliveredMs ?? defaultKeepDeliveredMs,
    reapEveryMs: given.reapEveryMs ?? 60_000,
    timeoutMs,
    prepare: given.pooler === undefined && (given.prepare ?? true),
    pooler: given.pooler,
    clock: given.clock ?? systemClock,
    onEvent: quiet(given.hooks?.onEvent),
  };
}

function hasMethod(method: string, error: string): z.ZodType {
  const has = (value: unknown): boolean =>
    typeof value === "object" &&
    value !== null &&
    isFunction((value as Record<string, unknown>)[method]);
  return z.custom(has, { error });
}

function isFunction(value: unknown): boolean {
  return typeof value === "function";
}

/** An observer must not be able to change what happens. */
function quiet(observe: ((event: OutboxEvent) => void) | undefined): (event: OutboxEvent) => void {
  return (event) => {
    try {
      observe?.(event);
    } catch {
      // Nothing to tell it to.
    }
  };
}
