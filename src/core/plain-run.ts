/**
 * A claimed plain route, from claim to stored response. Owns: what happens when the store is gone when the handler is done.
 */
import type { EngineOptions, KeyedRequest, Replay } from "./request.js";
import type { Claim, Completion, Guarantee, StoredResponse } from "./record.js";
import { attemptFor } from "./retry.js";

/** What became of a response. Only with `stored`, `unstored` and `passed` may its bytes be sent. */
export type Completed =
  | { readonly kind: "stored"; readonly replayUntilMs: number }
  /** The store could not be reached in time; completing goes on behind, and nobody else runs the key. */
  | { readonly kind: "unstored" }
  /** Somebody took over and completed: that answer counts. */
  | ({ readonly kind: "superseded" } & Replay)
  /** Somebody took over, or the key was settled, and there is no answer to send. */
  | { readonly kind: "outcome_unknown" }
  /** The response must not be sent, since another run may give another one: 503. */
  | { readonly kind: "unavailable" };

export interface PlainRun {
  readonly claim: Claim;
  readonly guarantee: Guarantee;
  /** Stores the response. Never rejects. */
  complete(response: StoredResponse): Promise<Completed>;
  /** Gives the key back because nothing happened. Never rejects; goes on behind while the store is away. */
  release(): Promise<void>;
  /**
   * Before the first byte of a response that cannot be stored. Only with `ok` and `unstored` may its bytes be sent; the words
   * are those of {@link Completed}, and `lost`: the claim is gone.
   */
  markNotStored(): Promise<"ok" | "unstored" | "lost" | "unavailable">;
  /** After the last byte of a response that cannot be stored. Never rejects. */
  completeNotStored(): Promise<void>;
}

export interface PlainRunContext extends EngineOptions {
  readonly inBackground: (work: Promise<void>) => void;
  readonly isClosing: () => boolean;
}

export interface PlainRunInput {
  readonly claim: Claim;
  readonly guarantee: Guarantee;
  readonly request: KeyedRequest;
  readonly startedMs: number;
  /** Takes the run off the register: no heartbeat comes after it. */
  readonly end: () => void;
}

/** How long completing goes on behind a response that has left. As long as the key is a question to anybody. */
const behindMs = 24 * 60 * 60_000;

export function createPlainRun(context: PlainRunContext, input: PlainRunInput): PlainRun {
  const { store, clock, onEvent } = context;
  const { claim, guarantee, request, end } = input;
  const { replayWindowMs, dedupeWindowMs } = request.route;

  const completion = (response: Completion["response"]): Completion => ({
    response,
    replayWindowMs,
    dedupeWindowMs,
  });

  /** Where a retry may run again, bytes that are not stored would be one of two different answers. */
  const unreachable = guarantee === "at_most_once" ? "unstored" : "unavailable";

  const lost = async (): Promise<Completed> => {
    onEvent({ type: "lost", guarantee });
    const found = await attemptFor(clock, context.completeTimeoutMs, () => store.find(claim));
    const record = found.kind === "answered" ? found.answer?.record : undefined;
    if (record?.response === undefined || record.state !== "completed")
      return { kind: "outcome_unknown" };
    // Another request may live under this key by now; its answer is none of this one's business.
    if (request.fingerprint.compare(record.fingerprint) !== "same")
      return { kind: "outcome_unknown" };
    return { kind: "superseded", record, response: record.response };
  };

  /** Goes on until the store answers or the process ends; heartbeats go on meanwhile, so that nobody takes over. */
  const goOnBehind = (work: () => Promise<unknown>): void => {
    const loop = async (): Promise<void> => {
      const startedMs = clock.monotonicMs();
      while (clock.monotonicMs() - startedMs < behindMs) {
        const attempted = await attemptFor(clock, context.completeTimeoutMs, work);
        if (attempted.kind === "answered" || context.isClosing()) break;
      }
      end();
    };
    context.inBackground(loop());
  };

  return {
    claim,
    guarantee,
    complete: async (response) => {
      const write = () => store.complete(claim, completion(response));
      const attempted = await attemptFor(clock, context.completeTimeoutMs, write);
      if (attempted.kind === "gave_up") {
        onEvent({ type: "store_error", during: "complete", error: attempted.error });
        onEvent({ type: "unstored" });
        goOnBehind(write);
        return { kind: unreachable };
      }
      end();
      if (attempted.answer.kind === "lost") return lost();
      const durationMs = clock.monotonicMs() - input.startedMs;
      onEvent({ type: "completed", guarantee, status: response.status, durationMs });
      return { kind: "stored", replayUntilMs: attempted.answer.replayUntilMs };
    },
    release: async () => {
      const attempted = await attemptFor(clock, context.completeTimeoutMs, () =>
        store.release(claim),
      );
      onEvent({ type: "released", guarantee });
      if (attempted.kind === "answered") end();
      else goOnBehind(() => store.release(claim));
    },
    markNotStored: async () => {
      onEvent({ type: "not_stored" });
      const attempted = await attemptFor(clock, context.completeTimeoutMs, () =>
        store.markNotStored(claim),
      );
      if (attempted.kind === "answered") return attempted.answer;
      return unreachable;
    },
    completeNotStored: async () => {
      const write = () => store.complete(claim, completion("not_stored"));
      const attempted = await attemptFor(clock, context.completeTimeoutMs, write);
      if (attempted.kind === "answered") end();
      else goOnBehind(write);
    },
  };
}
