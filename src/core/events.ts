/**
 * What observers are told. Owns: the words of metrics. Must never carry a key, a body or a credential.
 */
import type { RefusalCode } from "./errors.js";
import type { Guarantee } from "./record.js";

export type IdempotencyEvent =
  /** A key was claimed and its handler runs. */
  | { readonly type: "claimed"; readonly guarantee: Guarantee; readonly attempt: number }
  /** A stored response was sent again. */
  | { readonly type: "replayed" }
  /** A request was turned away by the state of its key. */
  | { readonly type: "refused"; readonly code: RefusalCode }
  /** A response is stored. `durationMs`: from claim to completion. */
  | {
      readonly type: "completed";
      readonly guarantee: Guarantee;
      readonly status: number;
      readonly durationMs: number;
    }
  /** A response larger than the maximum, or a stream, was sent without being stored. */
  | { readonly type: "not_stored" }
  /** The key was given back because nothing happened. */
  | { readonly type: "released"; readonly guarantee: Guarantee }
  /** A claim's holder found that the key is not its any more. */
  | { readonly type: "lost"; readonly guarantee: Guarantee }
  /** The store could not be reached in time; the response left with `Idempotency-Stored: false`. */
  | { readonly type: "unstored" }
  /** A handler ran longer than `maxRunMs`; its lease is renewed no more. */
  | { readonly type: "overrun" }
  /** Postgres refused a transaction for the sake of another one, and its handler is run again. `tries`: runs so far. */
  | { readonly type: "transaction_retried"; readonly tries: number }
  /** `dangerouslyRunWithoutStore` is on: a request with a key runs as if it had none. */
  | { readonly type: "unprotected" }
  /** A key that will change from run to run. */
  | { readonly type: "weak_key"; readonly weakness: "small_integer" | "unix_time" | "iso_time" }
  /** A request that could have carried a key came without one. */
  | { readonly type: "unkeyed" }
  /** An attempt at a steps request ended without an answer. `aside`: nobody tries again until an operator says so. */
  | {
      readonly type: "attempt_failed";
      readonly attempt: number;
      readonly aside: boolean;
      readonly error: unknown;
    }
  /** An unknown outcome was settled by the reconcile hook. */
  | { readonly type: "reconciled"; readonly outcome: "completed" | "not_executed" | "unknown" }
  /** The reaper removed what was over. */
  | { readonly type: "reaped"; readonly forgotten: number; readonly deleted: number }
  /** The store failed; `during` names the verb. */
  | { readonly type: "store_error"; readonly during: string; readonly error: unknown };
