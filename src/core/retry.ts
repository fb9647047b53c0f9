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

function settleWithin<Answer>(
  clock: Clock,
  ms: number,
  work: () => Promise<Answer>,
  onLate: (answer: Answer) => void,
): Promise<Attempted<Answer>> {
  return new Promise((resolve) => {
    let isLate = false;
    const stop = clock.after(Math.max(0, ms), () => {
      isLate = true;
      resolve({ kind: "gave_up", error: new Error("the store gave no answer in time") });
    });
    const succeed = (answer: Answer): void => {
      if (isLate) {
        onLate(answer);
        return;
      }
      stop();
      resolve({ kind: "answered", answer });
    };
    const fail = (error: unknown): void => {
      stop();
      resolve({ kind: "gave_up", error });
    };
    try {
      work().then(succeed, fail);
    } catch (error) {
      fail(error);
    }
  });
}
