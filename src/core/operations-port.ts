/**
 * What operators and the reconcile hook may do to keys. Each is refused where a holder lives or a response is stored, so that
 * no client can ever see two answers.
 */
import type { KeyRecord, KeyRef, StoredResponse, Windows } from "./record.js";

/** Who settles a key, and why; kept for ever. */
export interface Settler {
  readonly by: string;
  readonly why: string;
}

export interface Operations {
  /** Settles an abandoned or set-aside key with a response, provided that it is as observed. */
  resolveCompleted(
    observed: KeyRecord,
    response: StoredResponse,
    windows: Windows,
    settler: Settler,
  ): Promise<"ok" | "refused">;
  /**
   * Gives an abandoned or set-aside key back: its work is known not to have been done. A steps request with finished steps is
   * due at once instead: what was not done is the call that nobody knew of, and it goes on with that one.
   */
  resolveNotExecuted(observed: KeyRecord, settler: Settler): Promise<"ok" | "refused">;
  /** Makes a parked steps request due now, with all its attempts before it. */
  retry(observed: KeyRecord, settler: Settler): Promise<"ok" | "refused">;
  /** Erases the response of a completed key and keeps the key. Caches are told by {@link Store} compositions. */
  forget(ref: KeyRef, settler: Settler): Promise<"ok" | "refused">;
}
