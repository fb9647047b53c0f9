/**
 * What the engine asks of a store. Owns: the verbs and what each promises; `oncekey/testing` holds the contract as tests.
 * A store holds no policy: it does what a verb says, atomically, or answers that the world was different.
 */
import type {
  Claim,
  ClaimRequest,
  Completion,
  KeyRecord,
  KeyRef,
  Observation,
  StoredResponse,
  Windows,
  TransactionLimits,
} from "./record.js";
import type { Operations } from "./operations-port.js";
import type { OutboxMessage } from "./outbox-message.js";
import type { Isolation, TransactionAdapter } from "./sql-session.js";
import type { StepsSource } from "./steps-port.js";

/** Answer to a claim. `locked`: an uncommitted claim holds the key, so there is nothing to read yet. */
export type ClaimAnswer =
  | { readonly kind: "claimed"; readonly claim: Claim }
  | ({ readonly kind: "exists" } & Observation)
  | { readonly kind: "locked" };

/** Answer to a write of a claim's holder. `lost`: the claim is not (or no longer) the writer's; nothing was changed. */
export type CompleteAnswer =
  { readonly kind: "ok"; readonly replayUntilMs: number } | { readonly kind: "lost" };

/**
 * Where keys live. Every verb may reject when the store cannot be reached; whether its effect happened is then unknown, and
 * each verb is safe to repeat with the same claim id.
 */
export interface Store {
  /** Inserts a running record unless the key exists. At most one of any number of simultaneous claimers gets `claimed`. */
  claim(request: ClaimRequest): Promise<ClaimAnswer>;
  /**
   * Claims a key whose record is still as observed: same token, and its lease over (running), or due or not (parked), or its
   * dedupe window over (completed, forgotten), by the store's clock. Otherwise answers what it found.
   */
  takeOver(request: ClaimRequest, observed: KeyRecord): Promise<ClaimAnswer>;
  /** Stores the response of a running claim. Repeating it after success answers `ok`. The lease plays no part. */
  complete(claim: Claim, completion: Completion): Promise<CompleteAnswer>;
  /** Notes, before the first byte leaves, that the response of a running claim cannot be replayed. */
  markNotStored(claim: Claim): Promise<"ok" | "lost">;
  /** Gives a running key back as if it had never been sent. Repeating it answers `lost`. */
  release(claim: Claim): Promise<"ok" | "lost">;
  /** Extends the leases of running claims; answers the claim ids that are not running claims any more. */
  heartbeat(claims: readonly Claim[], leaseMs: number): Promise<readonly string[]>;
  /** A completed record that is remembered in this process; undefined: ask. Absent where nothing is remembered. */
  peek?(ref: KeyRef): Observation | undefined;
  /** Reads a key, or undefined. */
  find(ref: KeyRef): Promise<Observation | undefined>;
  /**
   * Removes what is over, at most `limit` rows: bodies after the replay window, keys after the dedupe window. `"elected"`:
   * does nothing while another process is at it.
   */
  reap(limit: number, who?: "anybody" | "elected"): Promise<ReapResult>;
  /** Rejects with what is wrong when the store is not ready for work; resolves otherwise. */
  check(): Promise<void>;
  /** Ends what the store opened itself. Never the pool or client it was given. */
  close(): Promise<void>;
  /**
   * Calls `onHint` when a key may have been completed or released by any process, and whenever such a hint may have been
   * missed. Nothing may rest on it: a lost hint costs a waiter time and nothing else. Absent where the store has no way.
   */
  watch?(ref: KeyRef, onHint: () => void): Watch;
  /** Claim, the user's rows and the response in one transaction; absent where the store has none. */
  readonly transactions?: TransactionSource;
  /** Recovery points; absent where the store has none. */
  readonly steps?: StepsSource;
  /** What operators may do; absent where the store has none. */
  readonly operations?: Operations;
}

/** Hints on one key, as long as somebody waits for it. */
export interface Watch {
  /** False while no hint can come: not set up yet, or its connection is lost. */
  isLive(): boolean;
  stop(): void;
}

export interface ReapResult {
  /** Completed keys whose response was removed. */
  readonly forgotten: number;
  /** Keys removed altogether. */
  readonly deleted: number;
}

/** How the transaction of a route is opened. */
export interface TransactionSettings extends TransactionLimits {
  /** Default read committed. */
  readonly isolation?: Isolation;
  /** Where the transaction comes from; default the store's own pool. */
  readonly using?: TransactionAdapter<unknown> | undefined;
}

export interface TransactionSource {
  /** Opens a transaction and claims in it. Nothing is left open unless the answer is `claimed`. */
  claim(
    request: ClaimRequest,
    settings: TransactionSettings,
  ): Promise<
    | { readonly kind: "claimed"; readonly claim: Claim; readonly open: OpenTransaction }
    | ClaimRefusal
  >;
  /** As `claim`, over a record that {@link Store.takeOver} would claim. */
  takeOver(
    request: ClaimRequest,
    observed: KeyRecord,
    settings: TransactionSettings,
  ): Promise<
    | { readonly kind: "claimed"; readonly claim: Claim; readonly open: OpenTransaction }
    | ClaimRefusal
  >;
  /** Opens a transaction without a key, for requests that came without one. */
  begin(settings: TransactionSettings): Promise<OpenTransaction>;
  /**
   * Settles a commit whose reply was lost, by an operation that waits for the in-doubt transaction: what the key holds when
   * nobody can commit under `claim` any more. Undefined: nothing was committed.
   */
  settle(claim: Claim, windows: Windows): Promise<Observation | undefined>;
  /** True for an error, of a statement or of COMMIT, after which the same transaction can succeed when it is run again. */
  isConflict(error: unknown): boolean;
}

export type ClaimRefusal = Exclude<ClaimAnswer, { readonly kind: "claimed" }>;

/** What came of a commit. `unknown`: the connection was lost before the server said. */
export type CommitAnswer =
  | { readonly kind: "committed"; readonly replayUntilMs: number }
  | { readonly kind: "rolled_back"; readonly cause: unknown }
  | { readonly kind: "unknown"; readonly cause: unknown };

/** A transaction the engine owns; the handler only gets `tx`. */
export interface OpenTransaction {
  /** What the handler works with; refuses to end the transaction and to be used after its end. */
  readonly tx: unknown;
  /** Stores the response under the claim and commits both with the handler's rows. */
  complete(claim: Claim, completion: Completion): Promise<CommitAnswer>;
  /** Commits without a key. */
  commit(): Promise<CommitAnswer>;
  /** Ends the transaction without a trace. Never rejects. */
  rollback(): Promise<void>;
  /** Adds a message that leaves if this transaction commits; absent where the store has no outbox. */
  readonly send?: ((message: OutboxMessage) => Promise<void>) | undefined;
}

/** Answer of a cache to a claimer. A cache never proves that a key is free, abandoned or mismatched. */
export type CacheAnswer =
  | ({ readonly kind: "completed" } & Observation)
  /** Another claimer with the same fingerprint was seen within the marker's short life. */
  | { readonly kind: "running" }
  /** Nothing useful; ask the store. */
  | { readonly kind: "absent" };

/** A completed record on its way into a cache, with the durations that its store gave it. */
export interface CacheEntry {
  readonly record: KeyRecord & { readonly response: StoredResponse };
  /** Milliseconds left of the replay window when `readAtMs` was taken. */
  readonly replayLeftMs: number;
  /** Monotonic time of this process, taken before the store was asked. */
  readonly readAtMs: number;
  /** The store's epoch under which the record was read. */
  readonly epoch: string;
}

/** A fast place in front of a store. No verb rejects and none waits longer than its budget: a cache only saves time. */
export interface Cache {
  /** Answers a completed record of this epoch, or marks the key as running for this claimer. */
  look(
    ref: KeyRef,
    claim: { readonly claimId: string; readonly fingerprint: string },
    epoch: string,
  ): Promise<CacheAnswer>;
  /**
   * Takes this claimer's marker away, if it is there. `ended`: the key was given back, so that whoever watches it is told;
   * a claimer that only found the key taken must not say so, or watchers would wake each other for ever.
   */
  unmark(ref: KeyRef, claimId: string, why?: "ended"): Promise<void>;
  /** Renews the markers of what still runs. */
  renew(
    claims: readonly (KeyRef & { readonly claimId: string; readonly fingerprint: string })[],
  ): Promise<void>;
  /** Keeps a completed record for what is left of its replay window, in place of any marker, and tells who watches the key. */
  keep(entry: CacheEntry): Promise<void>;
  /** Removes the key and refuses late writes of it for a while. Rejects when it cannot say that this is done. */
  forget(ref: KeyRef): Promise<void>;
  /** As {@link Store.watch}; undefined while the cache cannot tell. */
  watch?(ref: KeyRef, onHint: () => void): Watch | undefined;
  close(): Promise<void>;
}

/** A store that a cache can stand in front of. */
export interface CacheableStore extends Store {
  /**
   * Names the history that the store is in. Another value after a restore or failover makes every cached record a miss;
   * undefined while unknown.
   */
  epoch(): string | undefined;
}

export function isCacheable(store: Store): store is CacheableStore {
  return "epoch" in store && typeof store.epoch === "function";
}
