/**
 * A keyed request as plain data, on its way through the engine, and what the engine needs to carry it.
 */
import type { Clock } from "./clock.js";
import type { IdempotencyError } from "./errors.js";
import type { IdempotencyEvent } from "./events.js";
import type { Fingerprint } from "./fingerprint.js";
import type { ResolvedRoute } from "./options.js";
import type { Store } from "./ports.js";
import type { KeyRecord, KeyRef, StoredResponse } from "./record.js";

/** How long nobody looks at a key that is in progress, unless something wakes. Pauses double from the first to the longest. */
export interface LookPauses {
  readonly firstMs: number;
  readonly longestMs: number;
  /** While hints come, looking is only the safety net for one that was lost. */
  readonly watchedFirstMs: number;
  readonly watchedLongestMs: number;
}

export interface EngineOptions {
  readonly store: Store;
  readonly clock: Clock;
  readonly leaseMs: number;
  readonly heartbeatMs: number;
  readonly claimTimeoutMs: number;
  readonly completeTimeoutMs: number;
  /** How often waiters look; for tests. */
  readonly lookPauses?: LookPauses;
  readonly onEvent: (event: IdempotencyEvent) => void;
}

/** One keyed request, as the engine sees it. */
export interface KeyedRequest extends KeyRef {
  readonly fingerprint: Fingerprint;
  readonly method: string;
  readonly path: string;
  readonly requestId: string;
  readonly route: ResolvedRoute;
  /** How long it waits for a running request with its key; 0: not at all. */
  readonly waitMs: number;
  /** Aborted when the client is gone: nobody waits for it then. */
  readonly signal: AbortSignal;
}

/** A stored answer and whose it is. */
export interface Replay {
  readonly record: KeyRecord;
  readonly response: StoredResponse;
}

/** Why the handler does not run. */
export type Outcome =
  | ({ readonly kind: "replay" } & Replay)
  | { readonly kind: "refuse"; readonly error: IdempotencyError };

/** What a request for a key came to. */
export type Begun<Run> = { readonly kind: "run"; readonly run: Run } | Outcome;
