/**
 * A claimed steps request: its attempt, and what becomes of it. Owns: when another attempt is made and when a request is set
 * aside. The same for a request that a client waits for and for one that the completer picked up.
 */
import type { AttemptResult, AttemptRunner, ResolvedSteps, StepsRequest } from "./attempt.js";
import { startDeadline } from "./deadline.js";
import { IdempotencyError } from "./errors.js";
import { ClaimedPlainRun } from "./plain-run.js";
import type { PlainRunContext, PlainRunInput } from "./plain-run.js";
import type { ResolvedRoute } from "./options.js";
import type { Replay } from "./request.js";
import { attemptFor } from "./retry.js";
import type { StoredResponse } from "./record.js";

/** What the client of a steps request is told. */
export type StepsOutcome =
  | { readonly kind: "stored"; readonly response: StoredResponse; readonly replayUntilMs: number }
  | ({ readonly kind: "superseded" } & Replay)
  | { readonly kind: "refused"; readonly error: IdempotencyError };

export interface StepsRun {
  /**
   * Runs the handler from its last recovery point and stores its answer. Never rejects.
   *
   * @param fresh the client's request; a later attempt uses the one that was stored with the first claim
   */
  run(fresh?: StepsRequest): Promise<StepsOutcome>;
}

/** A steps route as the engine needs it, also without a client. */
export interface StepsRoute {
  /** The name under which a request finds its handler again, in this process or another one. */
  readonly handler: string;
  readonly route: ResolvedRoute;
  readonly options: ResolvedSteps;
  readonly runAttempt: AttemptRunner;
  /** Reads a request as it was stored. */
  readonly readRequest: (stored: unknown) => StepsRequest;
}

export interface StepsInput extends PlainRunInput {
  readonly route: StepsRoute;
}

const firstRetryMs = 1_000;
const longestRetryMs = 5 * 60_000;

export function createStepsRun(context: PlainRunContext, input: StepsInput): StepsRun {
  const { clock, onEvent, store, completeTimeoutMs } = context;
  const { claim, route, end } = input;
  const plain = new ClaimedPlainRun(context, input);

  /** Keeps request and recovery points for the next attempt, or for an operator. */
  const park = async (error: unknown, aside: boolean): Promise<void> => {
    const retryInMs = aside ? undefined : retryPauseMs(claim.attempt, clock.random());
    onEvent({ type: "attempt_failed", attempt: claim.attempt, aside, error });
    // Where the store is away the lease ends by itself, and the completer takes over.
    await attemptFor(clock, completeTimeoutMs, async () =>
      store.steps?.park(claim, describe(error), retryInMs),
    );
    end();
  };

  const complete = async (response: StoredResponse): Promise<StepsOutcome> => {
    const completed = await plain.complete(response);
    switch (completed.kind) {
      case "stored":
        return { kind: "stored", response, replayUntilMs: completed.replayUntilMs };
      case "superseded":
        return completed;
      case "unstored":
      case "unavailable":
        return refused("store_unavailable");
      case "outcome_unknown":
        return refused("in_progress");
      default:
        return completed satisfies never;
    }
  };

  const storedRequest = async (): Promise<StepsRequest> => {
    const found = await store.find(claim);
    if (found?.record.claimId !== claim.claimId) throw new Error("The claim was taken over.");
    return route.readRequest(found.record.steps?.request);
  };

  const attempt = async (fresh: StepsRequest | undefined): Promise<AttemptResult> => {
    const message = "The request did not end within maxRunMs.";
    const deadline = startDeadline(clock, route.route.maxRunMs, message);
    try {
      const isFirst = claim.attempt === 1 && fresh !== undefined;
      const request = isFirst ? fresh : await storedRequest();
      return await route.runAttempt(claim, request, deadline.signal);
    } catch (error) {
      return { kind: "failed", error };
    } finally {
      deadline.clear();
    }
  };

  return {
    run: async (fresh) => {
      const result = await attempt(fresh);
      switch (result.kind) {
        case "reply":
          return complete(result.response);
        case "failed": {
          const aside = claim.attempt >= route.options.maxAttempts;
          await park(result.error, aside);
          return refused(aside ? "outcome_unknown" : "attempt_failed", result.error);
        }
        case "definition_changed":
          await park(result.error, true);
          return refused("definition_changed", result.error);
        case "unknown":
          await park(result.error, true);
          return refused("outcome_unknown", result.error);
        case "lost":
          end();
          onEvent({ type: "lost", guarantee: "steps" });
          // Somebody else goes on with it.
          return refused("in_progress");
        default:
          return result satisfies never;
      }
    },
  };
}

function refused(
  code:
    | "store_unavailable"
    | "in_progress"
    | "outcome_unknown"
    | "attempt_failed"
    | "definition_changed",
  cause?: unknown,
): StepsOutcome {
  const again = code === "store_unavailable" || code === "in_progress" || code === "attempt_failed";
  const details = {
    ...(cause === undefined ? {} : { cause }),
    ...(again ? { retryAfterSeconds: 1 } : {}),
  };
  return { kind: "refused", error: new IdempotencyError(code, details) };
}

/** Exponential with equal jitter: never at once, since what failed has just failed. */
function retryPauseMs(attempt: number, random: number): number {
  const fullMs = Math.min(longestRetryMs, firstRetryMs * 2 ** Math.min(attempt - 1, 20));
  return fullMs / 2 + (random * fullMs) / 2;
}

/** For operators: the class and first line of an error, never a value it may carry further down. */
function describe(error: unknown): string {
  const text = error instanceof Error ? `${error.name}: ${error.message}` : String(error);
  return text.split("\n", 1)[0]?.slice(0, 500) ?? "";
}
