/** A Clock that stands still until a test moves it. Not a mock: it keeps every promise of the port. */
import type { Clock } from "../../src/core/clock.js";

export interface ManualClock extends Clock {
  /** Moves time, firing what falls due on the way, in the order of time. */
  advance(ms: number): Promise<void>;
  /** Number of sleeps and intervals that are still waiting. */
  waiting(): number;
}

interface Timer {
  dueMs: number;
  readonly everyMs: number | undefined;
  readonly fire: () => void;
}

/** Lets everything that is ready run, however many promises it takes. */
export async function settled(): Promise<void> {
  for (let turn = 0; turn < 3; turn += 1) await new Promise((resolve) => setImmediate(resolve));
}

/** `random` is what jitter gets; 0 makes every pause its shortest. */
export function createManualClock(random = 0): ManualClock {
  let nowMs = 1_000;
  let ids = 0;
  const timers = new Set<Timer>();
  const sleep: Clock["sleep"] = (ms, signal) =>
    new Promise((resolve) => {
      const fire = (): void => {
        timers.delete(timer);
        signal?.removeEventListener("abort", fire);
        resolve();
      };
      const timer: Timer = { dueMs: nowMs + ms, everyMs: undefined, fire };
      if (signal?.aborted) resolve();
      else {
        timers.add(timer);
        signal?.addEventListener("abort", fire, { once: true });
      }
    });

  return {
    monotonicMs: () => nowMs,
    uuid: () => `00000000-0000-4000-8000-${String((ids += 1)).padStart(12, "0")}`,
    random: () => random,
    sleep,
    idle: sleep,
    after: (ms, work) => {
      const fire = (): void => {
        timers.delete(timer);
        work();
      };
      const timer: Timer = { dueMs: nowMs + ms, everyMs: undefined, fire };
      timers.add(timer);
      return () => void timers.delete(timer);
    },
    every: (ms, work) => {
      const timer: Timer = { dueMs: nowMs + ms, everyMs: ms, fire: work };
      timers.add(timer);
      return () => void timers.delete(timer);
    },
    advance: async (ms) => {
      const untilMs = nowMs + ms;
      await settled();
      for (;;) {
        const [next] = [...timers].sort((a, b) => a.dueMs - b.dueMs);
        if (next === undefined || next.dueMs > untilMs) break;
        nowMs = Math.max(nowMs, next.dueMs);
        if (next.everyMs !== undefined) next.dueMs += next.everyMs;
        next.fire();
        await settled();
      }
      nowMs = untilMs;
    },
    waiting: () => timers.size,
  };
}
