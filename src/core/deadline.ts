/**
 * A time limit as a signal.
 */
import type { Clock } from "./clock.js";

export interface Deadline {
  /** Aborted with an error when the time is up. */
  readonly signal: AbortSignal;
  /** Call when what was limited has ended. */
  readonly clear: () => void;
}

export function startDeadline(clock: Clock, ms: number, message: string): Deadline {
  const timeUp = new AbortController();
  const cleared = new AbortController();
  const wait = async (): Promise<void> => {
    await clock.sleep(ms, cleared.signal);
    if (!cleared.signal.aborted) timeUp.abort(new Error(message));
  };
  void wait();
  return { signal: timeUp.signal, clear: () => cleared.abort() };
}
