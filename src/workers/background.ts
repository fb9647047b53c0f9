/**
 * The background work of one process: the completer, as soon as it has a steps route, and the reaper. Owns: their pace, and
 * starting and ending them. Every process takes part: completers share by locked rows, reapers elect one by a lock.
 */
import type { Clock } from "../core/clock.js";
import type { IdempotencyEvent } from "../core/events.js";
import type { Store } from "../core/ports.js";
import type { StepsRun } from "../core/steps-run.js";
import { createCompleter } from "./completer.js";
import { startLoop } from "./loop.js";
import { reapOnce } from "./reaper.js";

export interface BackgroundOptions {
  readonly store: Store;
  readonly clock: Clock;
  readonly claimDue: (most: number) => Promise<readonly StepsRun[]>;
  readonly onEvent: (event: IdempotencyEvent) => void;
}

export interface Background {
  /** Call when there is a steps route to complete requests of. */
  startCompleter(): void;
  stop(): Promise<void>;
}

/** Abandoned work waits this long at most, besides its lease; an empty look costs one index probe. */
const completerIdleMs = 1_000;
/** Rows that are over do no harm; they only take room. */
const reaperIdleMs = 30_000;
/** Abandoned requests run beside those of clients, and should not crowd them out. */
const completerConcurrency = 4;

export function startBackground(options: BackgroundOptions): Background {
  const { clock, onEvent, store } = options;
  const onError = (during: string) => (error: unknown) =>
    onEvent({ type: "store_error", during, error });
  const stopReaper = startLoop({
    clock,
    idleMs: reaperIdleMs,
    runOnce: () => reapOnce(store, onEvent),
    onError: onError("reap"),
  });
  const completer = createCompleter({
    claimDue: options.claimDue,
    concurrency: completerConcurrency,
  });
  let stopCompleter: (() => Promise<void>) | undefined;
  return {
    startCompleter: () => {
      stopCompleter ??= startLoop({
        clock,
        idleMs: completerIdleMs,
        runOnce: () => completer.runOnce(),
        onError: onError("complete due"),
      });
    },
    stop: async () => {
      await Promise.all([stopReaper(), stopCompleter?.()]);
      await completer.drain();
    },
  };
}
