/** When a failed delivery is tried again. Owns: the pauses, as pure numbers. */

const second = 1_000;
const minute = 60 * second;
const hour = 60 * minute;

/**
 * The pauses after each failed attempt; the first attempt is made at once, and after the last pause there is one more. From
 * the Standard Webhooks specification ("Deliverability and reliability"): ten attempts in three days.
 */
export const standardRetryDelaysMs: readonly number[] = [
  5 * second,
  5 * minute,
  30 * minute,
  2 * hour,
  5 * hour,
  10 * hour,
  14 * hour,
  20 * hour,
  24 * hour,
];

/** Receivers that failed together shall not be asked together again. Only ever later, so that no pause is cut short. */
const jitter = 0.1;
/** A receiver can ask for a pause, but not take a message out of circulation. */
const longestRetryAfterMs = 24 * hour;

/**
 * The pause after `attempt` failed, or undefined when it was the last one.
 *
 * @param random in [0, 1)
 */
export function retryDelayMs(
  delaysMs: readonly number[],
  attempt: number,
  random: number,
  retryAfterMs = 0,
): number | undefined {
  const delayMs = delaysMs[attempt - 1];
  if (delayMs === undefined) return undefined;
  return Math.max(delayMs * (1 + jitter * random), Math.min(retryAfterMs, longestRetryAfterMs));
}
