/** A pause that can be ended by a call, also by one that came just before it began. */
import type { Clock } from "../core/clock.js";

export interface Wake {
  /** Ends the pause under way; with none under way, the next one ends at once. */
  now(): void;
  wait(ms: number): Promise<void>;
}

export function createWake(clock: Pick<Clock, "sleep">): Wake {
  let called = false;
  let pause: AbortController | undefined;
  return {
    now: () => {
      called = true;
      pause?.abort();
    },
    wait: async (ms) => {
      if (!called) {
        pause = new AbortController();
        await clock.sleep(ms, pause.signal);
        pause = undefined;
      }
      called = false;
    },
  };
}
