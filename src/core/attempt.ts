/**
 * One attempt at a steps request, as the engine and the adapters see it: what it is given and what can come of it.
 */
import type { Claim, StoredResponse } from "./record.js";

/** The request as a handler of steps sees it, on the first attempt and on every later one. */
export interface StepsRequest {
  readonly scope: string;
  readonly key: string;
  readonly method: string;
  readonly path: string;
  readonly params: Readonly<Record<string, unknown>>;
  readonly query: Readonly<Record<string, unknown>>;
  /** Those that the route keeps, by lower-case name. */
  readonly headers: Readonly<Record<string, string>>;
  readonly body: unknown;
}

/** The answer of a steps handler. */
export interface StepsReply {
  /** 200 to 599. */
  readonly status: number;
  readonly headers?: Readonly<Record<string, string | readonly string[]>>;
  /** An object or array becomes JSON, a string text, bytes stay as they are. */
  readonly body?: unknown;
}

/** What a call to another service is given. */
export interface CallContext {
  /** The same on every attempt, and different for every scope, key and step: send it as the idempotency key downstream. */
  readonly key: string;
  /** Counts the tries of this step in this attempt, from 1. */
  readonly attempt: number;
  /** Aborted when the step's or the request's time is up. */
  readonly signal: AbortSignal;
}

export interface CallOptions<Result> {
  /** False where the service takes no key: the intention is stored first, and a lost result is `outcome_unknown`. Default true. */
  readonly repeatable?: boolean;
  /** Further tries within one attempt, with backoff. Only where repeatable. Default 2. */
  readonly retries?: number;
  readonly timeoutMs?: number;
  /** Asks what became of a call whose result was lost. Only where not repeatable. */
  readonly reconcile?: (context: CallContext) => Promise<Reconciled<Result>>;
}

export type Reconciled<Result> =
  | { readonly kind: "happened"; readonly result: Result }
  | { readonly kind: "not_executed" }
  | { readonly kind: "unknown" };

/** What a handler of steps works with. Steps have names of their own and come in the same order on every attempt. */
export interface Steps<Tx = unknown> {
  /** Rows written through `tx` and the result commit together, once. A lost claim commits nothing. */
  transaction<Result>(name: string, work: (tx: Tx) => Promise<Result>): Promise<Result>;
  /** A call to another service, outside any transaction; its result is stored and never asked for again. */
  call<Result>(
    name: string,
    work: (context: CallContext) => Promise<Result>,
    options?: CallOptions<Result>,
  ): Promise<Result>;
  /** A message that leaves at least once, in order per key, with a stable event id. */
  send(topic: string, payload: unknown): Promise<void>;
  /** `throw steps.fail(reply)`: a definitive failure, stored and replayed, never followed by a success. */
  fail(reply: StepsReply): Error;
}

export type StepsHandler<Tx = unknown> = (
  request: StepsRequest,
  steps: Steps<Tx>,
) => Promise<StepsReply>;

/** Options of a steps route. */
export interface StepsOptions {
  /** Names of request headers that the handler may see. They are stored; keep credentials out. Default none. */
  readonly keepHeaders?: readonly string[];
  /** Longest run of one step, in ms; then its signal is aborted and the attempt fails. Default 30 s. */
  readonly stepTimeoutMs?: number;
  /** Attempts after which a request is set aside for an operator. Default 10. */
  readonly maxAttempts?: number;
}

export type ResolvedSteps = {
  readonly [Name in keyof StepsOptions]-?: NonNullable<StepsOptions[Name]>;
};

/** What an attempt came to. */
export type AttemptResult =
  /** The handler's answer, or its definitive failure. */
  | { readonly kind: "reply"; readonly response: StoredResponse }
  /** Something failed that may not fail again: the next attempt goes on at the last recovery point. */
  | { readonly kind: "failed"; readonly error: unknown }
  /** The handler is not the one that began this request. */
  | { readonly kind: "definition_changed"; readonly error: Error }
  /** A call that must not be repeated may or may not have happened. */
  | { readonly kind: "unknown"; readonly error: Error }
  /** The claim is another's. */
  | { readonly kind: "lost" };

/** Runs a route's handler. Never rejects. */
export type AttemptRunner = (
  claim: Claim,
  request: StepsRequest,
  signal: AbortSignal,
) => Promise<AttemptResult>;
