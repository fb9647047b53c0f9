/**
 * Keeps aggregates up to date: computes marked keys until there are none, then waits. Owns: when. Any number of workers in any
 * number of processes share the work.
 */
import { z } from "zod";
import { systemClock } from "../core/clock.js";
import type { Clock } from "../core/clock.js";
import type { Aggregate } from "../pipeline/aggregate.js";
import type { RecomputeCounts } from "../pipeline/aggregate-options.js";
import { checkOptions } from "./check-options.js";
import { createWake } from "./wake.js";

/** What a worker tells. No key and no value. */
export type AggregateEvent =
  | ({
      readonly type: "recomputed";
      readonly aggregate: string;
      readonly durationMs: number;
    } & RecomputeCounts)
  /** The aggregate could not be reached or computed; it is tried again. */
  | { readonly type: "store_error"; readonly aggregate: string; readonly error: unknown };

export interface AggregateWorkerOptions {
  readonly aggregates: readonly Aggregate[];
  /** How often an idle worker looks for marks, in ms. Default 1 s. */
  readonly pollMs?: number;
  /**
   * Most of its time that a started worker computes, from 0.01 to 1: after each pass it rests. A key that events keep arriving for
   * is marked again and again, and computed once for all of them. Default 0.2.
   */
  readonly maxShare?: number;
  /** Observers; what they throw is dropped. */
  readonly hooks?: { readonly onEvent?: (event: AggregateEvent) => void };
  /** For tests. */
  readonly clock?: Clock;
}

export interface AggregateWorker {
  /** Begins to compute, until `stop`. */
  start(): void;
  /** Computes what is marked now, and what is marked meanwhile, until nothing is. Rejects where it cannot. */
  runOnce(): Promise<RecomputeCounts>;
  /** Looks for marks now. */
  wake(): void;
  /** Resolves when the transaction under way is over. */
  stop(): Promise<void>;
}

/** A figure is never older than a pass and this. */
const longestRestMs = 30_000;
/** Longest pause while passes fail, as a multiple of the poll. */
const longestFailurePause = 30;

const shape = z.strictObject({
  aggregates: z.array(z.custom<Aggregate>(isAggregate, "must be recomputeAggregate({ … })")).min(1),
  pollMs: z
    .number()
    .int()
    .min(1)
    .max(2 ** 31 - 1)
    .optional(),
  maxShare: z.number().min(0.01).max(1).optional(),
  hooks: z.strictObject({ onEvent: z.custom(isFunction).optional() }).optional(),
  clock: z.custom<Clock>().optional(),
});

/** @throws `options_invalid` that lists every problem at once. */
export function aggregateWorker(given: AggregateWorkerOptions): AggregateWorker {
  checkOptions("aggregateWorker", shape, given);
  const { aggregates, pollMs = 1_000, maxShare = 0.2, hooks, clock = systemClock } = given;
  const wakes = aggregates.map((aggregate) => ({ aggregate, wake: createWake(clock) }));
  const stopped = new AbortController();
  const tell = (event: AggregateEvent): void => {
    try {
      hooks?.onEvent?.(event);
    } catch {
      // An observer must not be able to change what happens.
    }
  };
  const pass = async (aggregate: Aggregate): Promise<RecomputeCounts & { hasMore: boolean }> => {
    const startedMs = clock.monotonicMs();
    const counts = await aggregate.recomputeMarked();
    const { keys, written, removed, failed, hasMore } = counts;
    if (keys + failed > 0) {
      const durationMs = clock.monotonicMs() - startedMs;
      tell({
        type: "recomputed",
        aggregate: aggregate.name,
        durationMs,
        keys,
        written,
        removed,
        failed,
      });
    }
    return { keys, written, removed, failed, hasMore };
  };
  const loop = async ({ aggregate, wake }: (typeof wakes)[number]): Promise<void> => {
    for (let failures = 0; !stopped.signal.aborted;) {
      try {
        const startedMs = clock.monotonicMs();
        const { hasMore } = await pass(aggregate);
        failures = 0;
        const restMs = (clock.monotonicMs() - startedMs) * (1 / maxShare - 1);
        if (hasMore) await clock.sleep(Math.min(restMs, longestRestMs), stopped.signal);
        if (!hasMore) await wake.wait(pollMs);
      } catch (error) {
        tell({ type: "store_error", aggregate: aggregate.name, error });
        failures += 1;
        await wake.wait(pollMs * Math.min(2 ** failures, longestFailurePause));
      }
    }
  };
  let loops: Promise<unknown> | undefined;
  return {
    start: () => {
      if (stopped.signal.aborted) throw new Error("the aggregate worker was stopped");
      loops ??= Promise.all(wakes.map(loop));
    },
    runOnce: async () => {
      const total = { keys: 0, written: 0, removed: 0, failed: 0 };
      for (const aggregate of aggregates) {
        for (let hasMore = true; hasMore && !stopped.signal.aborted;) {
          const counts = await pass(aggregate);
          for (const name of ["keys", "written", "removed", "failed"] as const)
            total[name] += counts[name];
          hasMore = counts.hasMore;
        }
      }
      return total;
    },
    wake: () => {
      for (const { wake } of wakes) wake.now();
    },
    stop: async () => {
      stopped.abort();
      for (const { wake } of wakes) wake.now();
      await loops;
    },
  };
}

function isAggregate(value: unknown): boolean {
  return isFunction((value as Partial<Aggregate> | undefined)?.recomputeMarked);
}

function isFunction(value: unknown): boolean {
  return typeof value === "function";
}
