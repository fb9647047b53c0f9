/**
 * Repeating a store's verb until it answers or time is up. Owns: the pauses. Every verb is safe to repeat with its claim id.
 */
import type { Clock } from "./clock.js";

const firstPauseMs = 20;
const longestPauseMs = 2_000;

export type Attempted<Answer> =
  | { readonly kind: "answered"; readonly answer: Answer }
  | { readonly kind: "gave_up"; readonly error: unknown };

/** How a verb is repeated. */
export interface Attempts<Answer> {
  /** True for an error that repeating cannot mend. */
  readonly isFinal?: (error: unknown) => boolean;
  /** Gets the answer of a call that was left behind: nobody else will use it. */
  readonly onLate?: (answer: Answer) => void;
}

/**
 * Calls `work` until it resolves, at most for `budgetMs` (monotonic), with full jitter between tries. A call that hangs past
 * the budget is left behind.
 */
export async function attemptFor<Answer>(
  clock: Clock,
  budgetMs: number,
  work: () => Promise<Answer>,
  { isFinal = () => false, onLate = () => undefined }: Attempts<Answer> = {},
): Promise<Attempted<Answer>> {
  const startedMs = clock.monotonicMs();
  const leftMs = (): number => budgetMs - (clock.monotonicMs() - startedMs);
  for (let tries = 0; ; tries += 1) {
    const attempted = await settleWithin(clock, leftMs(), work, onLate);
    if (attempted.kind === "answered" || isFinal(attempted.error)) return attempted;
    const pauseMs = pauseAfter(tries, clock.random());
    if (leftMs() <= pauseMs) return attempted;
    await clock.sleep(pauseMs);
  }
}

/** Exponential with full jitter, so that processes that failed together do not come back together. */
export function pauseAfter(tries: number, random: number): number {
  return firstPauseMs + random * Math.min(longestPauseMs, firstPauseMs * 2 ** Math.min(tries, 20));
}

async function settleWithin<Answer>(
  clock: Clock,
  ms: number,
  work: () => Promise<Answer>,
  onLate: (answer: Answer) => void,
): Promise<Attempted<Answer>> {
  const ended = new AbortController();
  let isLate = false;
  const call = work().then(
    (answer): Attempted<Answer> => {
      if (isLate) onLate(answer);
      return { kind: "answered", answer };
    },
    (error: unknown): Attempted<Answer> => ({ kind: "gave_up", error }),
  );
  const late = clock.sleep(Math.max(0, ms), ended.signal).then((): Attempted<Answer> => {
    isLate = true;
    return { kind: "gave_up", error: new Error("the store gave no answer in time") };
  });
  const first = await Promise.race([call, late]);
  ended.abort();
  return first;
}
