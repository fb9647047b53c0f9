/**
 * The tiers in front of a store, as plain and transaction routes share them: looking, asking the store, and telling the caches what it
 * said. Owns: what may be cached, and for how long it is true.
 */
import type { Clock } from "../core/clock.js";
import type { Cache, CacheableStore, ClaimRefusal } from "../core/ports.js";
import type {
  Claim,
  ClaimRequest,
  Completion,
  KeyRecord,
  KeyRef,
  Observation,
  StoredResponse,
} from "../core/record.js";
import { createLookPolicy } from "./look-policy.js";
import type { NearCache } from "./near-cache.js";

/** Redis does one thing at a time: moving a larger body through it would make every other key wait. */
const maxCachedBodyBytes = 262_144;

/** What a record will say that only its claimer knows; kept until the claim ends. */
export type HeldRecord = Pick<
  KeyRecord,
  | "scope"
  | "key"
  | "claimId"
  | "guarantee"
  | "fingerprint"
  | "fieldHashes"
  | "method"
  | "path"
  | "requestId"
>;

/** When, on the monotonic clock, and under which epoch the store was asked. */
export interface Asked {
  readonly atMs: number;
  readonly epoch: string | undefined;
}

export interface ClaimedAnswer {
  readonly kind: "claimed";
  readonly claim: Claim;
}

/** What may stand in front of a store. */
export interface Tiers {
  /** Shared by processes: a replay costs one round trip to it, and an equal request that runs elsewhere may be seen there. */
  readonly cache: Cache | undefined;
  /** This process' own: a replay costs none. */
  readonly near: NearCache | undefined;
}

export type Tier = ReturnType<typeof createTier>;

/** What plain and transaction routes share: looking, asking the store, and telling the cache what it said. */
export function createTier(store: CacheableStore, { cache, near }: Tiers, clock: Clock) {
  /** The store's time is at least this much ahead of the monotonic clock; undefined until the store has told a time. */
  let storeAheadMs: number | undefined;
  const sawTime = (storeMs: number): void => {
    storeAheadMs = storeMs - clock.monotonicMs();
  };

  /**
   * True while the replay window of a cached record is known to be open. A write that waited inside a hung Redis is kept
   * too long there by as much as it waited; by the store's own time, carried on by the monotonic clock, it is a miss.
   */
  const isFresh = (record: KeyRecord): boolean =>
    storeAheadMs !== undefined &&
    record.replayUntilMs !== undefined &&
    storeAheadMs + clock.monotonicMs() < record.replayUntilMs;

  const looking = createLookPolicy(clock);

  const asking = (): Asked => ({ atMs: clock.monotonicMs(), epoch: store.epoch() });
  const unmark = (claim: KeyRef & { readonly claimId: string }, why?: "ended"): void => {
    cache?.unmark(claim, claim.claimId, why).catch(ignore);
  };

  /**
   * Caches a record; takes the claimer's marker away where it may not be cached. `why`: as for `unmark`. What has just ended is kept in
   * this process only while retries are many: among others it would be garbage that has grown old. Its first replay brings it here.
   */
  const keep = (
    record: KeyRecord,
    claimId: string,
    replayLeftMs: number,
    asked: Asked,
    why?: "ended",
  ): void => {
    const { epoch, atMs: readAtMs } = asked;
    // Another epoch now: the record may be of a history that has ended.
    if (isCachable(record) && replayLeftMs > 0 && epoch !== undefined && epoch === store.epoch()) {
      const entry = { record, replayLeftMs, readAtMs, epoch };
      if (why !== "ended" || looking.pays()) near?.keep(entry);
      cache?.keep(entry).catch(ignore);
    } else unmark({ scope: record.scope, key: record.key, claimId }, why);
  };

  /** What the cache can answer for the store, or undefined: ask the store. */
  const look = async (request: ClaimRequest): Promise<ClaimRefusal | undefined> => {
    const { epoch, atMs: readAtMs } = asking();
    if (epoch === undefined || cache === undefined) return undefined;
    const claim = { claimId: request.claimId, fingerprint: request.fingerprint.text };
    const answer = await cache.look(request, claim, epoch).catch(ignore);
    if (answer?.kind === "running") return { kind: "locked" };
    if (answer?.kind !== "completed" || !isFresh(answer.record)) return undefined;
    const { record, nowMs } = answer;
    const replayLeftMs = (record.replayUntilMs ?? 0) - nowMs;
    if (isCachable(record)) near?.keep({ record, replayLeftMs, readAtMs, epoch });
    return { kind: "exists", record, nowMs };
  };

  /** Asks the store for a claim and tells the cache what came of it. */
  const ask = async <Answer extends ClaimedAnswer | ClaimRefusal>(
    request: ClaimRequest,
    work: () => Promise<Answer>,
  ): Promise<Answer> => {
    const asked = asking();
    try {
      const answer = await work();
      if (answer.kind === "exists") {
        const { record, nowMs } = answer;
        sawTime(nowMs);
        if (!isMine(request, answer))
          keep(record, request.claimId, (record.replayUntilMs ?? 0) - nowMs, asked);
      } else if (answer.kind === "locked") unmark(request);
      return answer;
    } catch (error) {
      unmark(request);
      throw error;
    }
  };

  return {
    asking,
    unmark,
    /** False while nothing would be kept of what is claimed now. */
    keepsEnded: (): boolean => cache !== undefined || looking.pays(),
    renew: (
      claims: readonly (KeyRef & { readonly claimId: string; readonly fingerprint: string })[],
    ): void => {
      cache?.renew(claims).catch(ignore);
    },
    /** Notes the store's time. */
    observe: (found: Observation | undefined): Observation | undefined => {
      if (found !== undefined) sawTime(found.nowMs);
      return found;
    },
    /** What this process itself remembers of a key, or undefined. */
    peek: (ref: KeyRef): Observation | undefined => {
      const epoch = near === undefined ? undefined : store.epoch();
      return epoch === undefined ? undefined : near?.look(ref, epoch);
    },
    ask,
    /** Claims: from the cache what it can answer, where looking at it pays, and else from the store. */
    claim: async <Answer extends ClaimedAnswer | ClaimRefusal>(
      request: ClaimRequest,
      work: () => Promise<Answer>,
    ): Promise<Answer | ClaimRefusal> => {
      const seen = looking.pays() ? await look(request) : undefined;
      if (seen !== undefined) {
        looking.found();
        return seen;
      }
      looking.asks();
      try {
        const answer = await ask(request, work);
        looking.answered(answer.kind !== "claimed");
        return answer;
      } catch (error) {
        looking.failed();
        throw error;
      }
    },
    /** Caches what a claim's holder has just stored, as the store would show it. */
    keepCompleted: (
      held: HeldRecord,
      claim: Claim,
      completion: Completion,
      { replayUntilMs }: { readonly replayUntilMs: number },
      asked: Asked,
    ): void => {
      const { response, replayWindowMs, dedupeWindowMs } = completion;
      // The end of a window less its length is a time that the store's clock has reached.
      sawTime(replayUntilMs - replayWindowMs);
      // Spelled out: an object that is copied and then added to costs several times as much, for every request.
      const record: KeyRecord = {
        scope: held.scope,
        key: held.key,
        claimId: held.claimId,
        guarantee: held.guarantee,
        fingerprint: held.fingerprint,
        fieldHashes: held.fieldHashes,
        method: held.method,
        path: held.path,
        requestId: held.requestId,
        state: "completed",
        token: claim.token,
        attempt: claim.attempt,
        leaseUntilMs: undefined,
        nextAttemptMs: undefined,
        notStored: response === "not_stored",
        response: response === "not_stored" ? undefined : response,
        replayUntilMs,
        dedupeUntilMs: replayUntilMs - replayWindowMs + dedupeWindowMs,
      };
      keep(record, claim.claimId, replayWindowMs, asked, "ended");
    },
  };
}

/** The asker's own claim, whose reply was lost. */
export function isMine(
  request: ClaimRequest,
  answer: ClaimRefusal,
): answer is { readonly kind: "exists" } & Observation {
  return (
    answer.kind === "exists" &&
    answer.record.state === "running" &&
    answer.record.claimId === request.claimId
  );
}

function isCachable(
  record: KeyRecord,
): record is KeyRecord & { readonly response: StoredResponse } {
  return (
    record.state === "completed" &&
    !record.notStored &&
    (record.response?.body.byteLength ?? Infinity) <= maxCachedBodyBytes
  );
}

function ignore(): undefined {
  return undefined;
}
