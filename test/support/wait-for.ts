/** Waiting for a state somebody else brings about, bounded, without a fixed sleep. */
import { setTimeout as pause } from "node:timers/promises";

export type WaitOptions = {
  /** How long the state may take to come; default 30,000 ms. */
  timeoutMs?: number;
  /** Default 10 ms. */
  intervalMs?: number;
  /** Completes the sentence "Waited … ms for …". */
  what?: string;
};

/**
 * Polls until `probe` answers something truthy, and returns that. A probe that throws counts as "not yet"; the
 * last error becomes the cause when time is up.
 */
export async function waitFor<T>(
  probe: () => T | Promise<T>,
  { timeoutMs = 30_000, intervalMs = 10, what = "a condition" }: WaitOptions = {},
): Promise<NonNullable<T>> {
  const deadline = performance.now() + timeoutMs;
  let cause: unknown;
  for (;;) {
    try {
      const answer = await probe();
      if (answer) return answer;
      cause = undefined;
    } catch (error) {
      cause = error;
    }
    if (performance.now() >= deadline)
      throw new Error(`Waited ${timeoutMs} ms for ${what}.`, { cause });
    await pause(intervalMs);
  }
}
