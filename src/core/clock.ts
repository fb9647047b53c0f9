/**
 * The one door to time and randomness. Nothing else in the library reads a clock of this process or makes random bits, so
 * that tests can replace both. No wall clock is here: leases and windows are judged by the store's clock (DESIGN, section 2).
 */
import { randomUUID } from "node:crypto";
import { inOnePiece } from "./one-piece.js";

/** Time and randomness of this process. */
export interface Clock {
  /** Milliseconds since some fixed point, never going back. */
  monotonicMs(): number;
  /** 122 random bits in UUID form. */
  uuid(): string;
  /** A number in [0, 1), for jitter. */
  random(): number;
  /** Resolves after the time, or at once when the signal is aborted. Keeps the process alive: somebody waits for what follows. */
  sleep(ms: number, signal?: AbortSignal): Promise<void>;
  /** As `sleep`, and does not keep the process alive: nobody waits. */
  idle(ms: number, signal?: AbortSignal): Promise<void>;
  /** Calls `work` after the time unless the returned function is called first; keeps the process alive. */
  after(ms: number, work: () => void): () => void;
  /** Calls `work` every so often until the returned function is called; does not keep the process alive. */
  every(ms: number, work: () => void): () => void;
}

export const systemClock: Clock = {
  monotonicMs: () => performance.now(),
  uuid: () => inOnePiece(randomUUID()),
  random: () => Math.random(),
  sleep: (ms, signal) => pause(ms, signal, true),
  idle: (ms, signal) => pause(ms, signal, false),
  after: (ms, work) => {
    const timer = setTimeout(work, ms);
    return () => clearTimeout(timer);
  },
  every: (ms, work) => {
    const timer = setInterval(work, ms);
    timer.unref();
    return () => clearInterval(timer);
  },
};

function pause(ms: number, signal: AbortSignal | undefined, keepsAlive: boolean): Promise<void> {
  return new Promise((resolve) => {
    const finish = (): void => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", finish);
      resolve();
    };
    const timer = setTimeout(finish, ms);
    if (!keepsAlive) timer.unref();
    if (signal?.aborted) finish();
    else signal?.addEventListener("abort", finish, { once: true });
  });
}
