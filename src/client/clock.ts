/**
 * The client's one door to time and randomness, so that tests can replace both. Must use only what browsers and Node share.
 */

/** Time and randomness of this page or process. */
export interface ClientClock {
  /** Milliseconds since 1970 by the wall clock; used only for a `Retry-After` that is a date. */
  nowMs(): number;
  /** A number in [0, 1), for jitter. */
  random(): number;
  /** Resolves after the time, or at once when the signal is aborted. */
  sleep(ms: number, signal?: AbortSignal): Promise<void>;
  /** Calls `work` after the time, unless the returned function is called before. */
  after(ms: number, work: () => void): () => void;
}

export const systemClock: ClientClock = {
  nowMs: () => Date.now(),
  random: () => Math.random(),
  sleep: (ms, signal) =>
    new Promise((resolve) => {
      const finish = (): void => {
        stop();
        signal?.removeEventListener("abort", finish);
        resolve();
      };
      const stop = after(ms, finish);
      if (signal?.aborted) finish();
      else signal?.addEventListener("abort", finish);
    }),
  after,
};

function after(ms: number, work: () => void): () => void {
  const timer = setTimeout(work, ms);
  return () => clearTimeout(timer);
}
