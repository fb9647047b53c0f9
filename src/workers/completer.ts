/**
 * The completer: finishes steps requests that nobody works on, without any client. Owns: how many it runs at a time. Several
 * processes share the work; the store gives each request to one of them.
 */
import type { StepsRun } from "../core/steps-run.js";

export interface CompleterOptions {
  /** Claims up to so many requests. */
  readonly claimDue: (most: number) => Promise<readonly StepsRun[]>;
  /** Most requests run at a time by this process. */
  readonly concurrency: number;
}

export interface Completer {
  /** Claims what is due, as far as there is room, and starts it; true when there may be more. */
  runOnce(): Promise<boolean>;
  /** Resolves when everything that was started has ended. */
  drain(): Promise<void>;
}

export function createCompleter({ claimDue, concurrency }: CompleterOptions): Completer {
  const running = new Set<Promise<unknown>>();
  return {
    runOnce: async () => {
      const room = concurrency - running.size;
      if (room <= 0) {
        await Promise.race(running);
        return true;
      }
      const runs = await claimDue(room);
      for (const run of runs) {
        const tracked: Promise<unknown> = run.run().finally(() => running.delete(tracked));
        running.add(tracked);
      }
      return runs.length === room;
    },
    drain: async () => {
      await Promise.all(running);
    },
  };
}
