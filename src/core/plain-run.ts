/**
 * A claimed plain route, from claim to stored response. Owns: what happens when the store is gone when the handler is done.
 */
import type { EngineOptions, KeyedRequest, Replay } from "./request.js";
import type { CompleteAnswer } from "./ports.js";
import type { Claim, Completion, Guarantee, StoredResponse } from "./record.js";
import { attemptFor } from "./retry.js";
import type { Attempted } from "./retry.js";
import { isFree } from "./unused-claim.js";

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
  /** Gives back what nobody used, as far as it may be ({@link isFree}). Never rejects. */
  giveBackUnused(): Promise<void>;
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

/** A class, since every request under way holds one: closures for each of its verbs would be most of its size. */
export class ClaimedPlainRun implements PlainRun {
  readonly #context: PlainRunContext;
  readonly #input: PlainRunInput;

  constructor(context: PlainRunContext, input: PlainRunInput) {
    this.#context = context;
    this.#input = input;
  }

  get claim(): Claim {
    return this.#input.claim;
  }

  get guarantee(): Guarantee {
    return this.#input.guarantee;
  }

  async complete(response: StoredResponse): Promise<Completed> {
    const { clock, onEvent } = this.#context;
    const { guarantee, end, startedMs } = this.#input;
    const attempted = await this.#attempt(() => this.#write(response));
    if (attempted.kind === "gave_up") {
      onEvent({ type: "store_error", during: "complete", error: attempted.error });
      onEvent({ type: "unstored" });
      this.#goOnBehind(() => this.#write(response));
      return { kind: this.#unreachable() };
    }
    end();
    if (attempted.answer.kind === "lost") return this.#lost();
    const durationMs = clock.monotonicMs() - startedMs;
    onEvent({ type: "completed", guarantee, status: response.status, durationMs });
    return { kind: "stored", replayUntilMs: attempted.answer.replayUntilMs };
  }

  async release(): Promise<void> {
    const { store, onEvent } = this.#context;
    const { claim, guarantee, end } = this.#input;
    const attempted = await this.#attempt(() => store.release(claim));
    onEvent({ type: "released", guarantee });
    if (attempted.kind === "answered") end();
    else this.#goOnBehind(() => store.release(claim));
  }

  async giveBackUnused(): Promise<void> {
    const { claim, guarantee, end } = this.#input;
    if (isFree(claim.attempt, guarantee)) await this.release();
    else end();
  }

  async markNotStored(): Promise<"ok" | "unstored" | "lost" | "unavailable"> {
    const { store, onEvent } = this.#context;
    onEvent({ type: "not_stored" });
    const attempted = await this.#attempt(() => store.markNotStored(this.claim));
    return attempted.kind === "answered" ? attempted.answer : this.#unreachable();
  }

  async completeNotStored(): Promise<void> {
    const attempted = await this.#attempt(() => this.#write("not_stored"));
    if (attempted.kind === "answered") this.#input.end();
    else this.#goOnBehind(() => this.#write("not_stored"));
  }

  #attempt<Answer>(work: () => Promise<Answer>): Promise<Attempted<Answer>> {
    return attemptFor(this.#context.clock, this.#context.completeTimeoutMs, work);
  }

  #write(response: Completion["response"]): Promise<CompleteAnswer> {
    const { replayWindowMs, dedupeWindowMs } = this.#input.request.route;
    const completion = { response, replayWindowMs, dedupeWindowMs };
    return this.#context.store.complete(this.#input.claim, completion);
  }

  /** Where a retry may run again, bytes that are not stored would be one of two different answers. */
  #unreachable(): "unstored" | "unavailable" {
    return this.guarantee === "at_most_once" ? "unstored" : "unavailable";
  }

  async #lost(): Promise<Completed> {
    const { store, onEvent } = this.#context;
    const { claim, guarantee, request } = this.#input;
    onEvent({ type: "lost", guarantee });
    const found = await this.#attempt(() => store.find(claim));
    const record = found.kind === "answered" ? found.answer?.record : undefined;
    if (record?.response === undefined || record.state !== "completed")
      return { kind: "outcome_unknown" };
    // Another request may live under this key by now; its answer is none of this one's business.
    if (request.fingerprint.compare(record.fingerprint) !== "same")
      return { kind: "outcome_unknown" };
    return { kind: "superseded", record, response: record.response };
  }

  /** Goes on until the store answers or the process ends; heartbeats go on meanwhile, so that nobody takes over. */
  #goOnBehind(work: () => Promise<unknown>): void {
    const { clock, inBackground, isClosing } = this.#context;
    const loop = async (): Promise<void> => {
      const startedMs = clock.monotonicMs();
      while (clock.monotonicMs() - startedMs < behindMs) {
        const attempted = await this.#attempt(work);
        if (attempted.kind === "answered" || isClosing()) break;
      }
      this.#input.end();
    };
    inBackground(loop());
  }
}
