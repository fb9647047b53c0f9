/**
 * What is known of a key, as plain data. Owns: the shapes that core, stores and adapters exchange.
 * Must never hold behaviour or a driver's type.
 */

/**
 * What a crash leaves behind, chosen by the route and stored with the claim, so that a later deploy cannot change the
 * promise under which the work was begun.
 */
export type Guarantee = "at_most_once" | "rerun" | "transaction" | "steps";

export type KeyState = "running" | "completed" | "parked" | "forgotten";

/** A header as it is stored: the name in the handler's own case; several values in their order. */
export type StoredHeader = readonly [name: string, value: string | readonly string[]];

/** A response that can be sent again byte for byte. */
export interface StoredResponse {
  readonly status: number;
  /** Reason phrase, when the handler chose one. */
  readonly statusMessage?: string;
  readonly headers: readonly StoredHeader[];
  /** Names of headers of earlier middleware that the handler took away. */
  readonly removedHeaders?: readonly string[];
  readonly body: Uint8Array;
}

/** Names a key in its scope. */
export interface KeyRef {
  readonly scope: string;
  readonly key: string;
}

/** The right to run the handler. Every write of its holder carries `claimId` and `token`. */
export interface Claim extends KeyRef {
  /** 128 bits made by the claimer: a row that carries my claim id is mine, whatever reply was lost. */
  readonly claimId: string;
  /** Fencing number from one database sequence that never restarts. */
  readonly token: number;
  /** 1 for the first run, counting every take-over. */
  readonly attempt: number;
}

/** What is stored of a request's content. Made when it is first read, by a store for the requests of one batch together. */
export interface StoredFingerprint {
  /** `v1:<secret id>:<digest>`. */
  readonly text: string;
  /** Hash per field as JSON, to name what differs without keeping any value. */
  readonly fieldHashes: string;
}

/** What a claimer says of its request. */
export interface ClaimRequest extends KeyRef {
  readonly claimId: string;
  readonly guarantee: Guarantee;
  readonly fingerprint: StoredFingerprint;
  readonly method: string;
  readonly path: string;
  readonly requestId: string;
  readonly leaseMs: number;
  /** Steps routes only: which handler goes on after a crash, and with what. */
  readonly steps?: { readonly handler: string; /** JSON. */ readonly request: string };
}

/** One key as a store knows it. Times are milliseconds of the store's clock. */
export interface KeyRecord extends KeyRef {
  readonly state: KeyState;
  readonly claimId: string;
  readonly token: number;
  readonly attempt: number;
  readonly guarantee: Guarantee;
  /** As in {@link StoredFingerprint}. */
  readonly fingerprint: string;
  readonly fieldHashes: string;
  readonly method: string;
  readonly path: string;
  readonly requestId: string;
  /** While running: until when the claim is believed without a heartbeat. */
  readonly leaseUntilMs: number | undefined;
  /** While parked: when the next attempt is due; undefined when the request was set aside. */
  readonly nextAttemptMs: number | undefined;
  /** The response was too large or a stream: it is (or was) sent and cannot be replayed. */
  readonly notStored: boolean;
  readonly response: StoredResponse | undefined;
  /** End of the replay window; set at completion. */
  readonly replayUntilMs: number | undefined;
  /** End of the dedupe window; set at completion. */
  readonly dedupeUntilMs: number | undefined;
  /** Steps routes only, while unfinished: which handler goes on, and the JSON value it goes on with. */
  readonly steps?: { readonly handler: string; readonly request: unknown } | undefined;
  /** Why the last attempt of a steps request ended. */
  readonly lastError?: string | undefined;
}

/** A record together with the time at which the store judged it. */
export interface Observation {
  readonly record: KeyRecord;
  readonly nowMs: number;
}

/** How long a completed key is replayed and remembered, in milliseconds from completion. */
export interface Windows {
  readonly replayWindowMs: number;
  readonly dedupeWindowMs: number;
}

/** What completion stores: a response, or the fact that there is one that cannot be replayed. */
export type Completion = Windows & { readonly response: StoredResponse | "not_stored" };

export interface TransactionLimits {
  /** Bound of each statement, of idling between two, and (where the server can) of the whole transaction. */
  readonly timeoutMs: number;
}
