/**
 * Repeats a piece of background work. Owns: the pauses, and ending cleanly. One run at a time.
 */
import type { Clock } from "../core/clock.js";

export interface LoopOptions {
  readonly clock: Clock;
  /** Pause after a run that found nothing, in ms; with jitter, so that processes do not march in step. */
  readonly idleMs: number;
  /** True when there is more to do at once. */
  readonly runOnce: () => Promise<boolean>;
  readonly onError: (error: unknown) => void;
}

/** Longest pause while runs fail, as a multiple of the idle one. */
const longestFailurePause = 30;

/** Starts the loop with a pause; the returned function ends it and resolves when the run under way is over. */
export function startLoop(options: LoopOptions): () => Promise<void> {
  const { clock, idleMs } = options;
  const stopped = new AbortController();
  const loop = async (): Promise<void> => {
    let failures = 0;
    let hasMore = false;
    while (!stopped.signal.aborted) {
      const pauseMs =
        idleMs * Math.min(2 ** failures, longestFailurePause) * (0.75 + clock.random() / 2);
      if (!hasMore) await clock.idle(pauseMs, stopped.signal);
      if (stopped.signal.aborted) return;
      try {
        hasMore = await options.runOnce();
        failures = 0;
      } catch (error) {
        hasMore = false;
        failures += 1;
        options.onError(error);
      }
    }
  };
  const ended = loop();
  return async () => {
    stopped.abort();
    await ended;
  };
}
