/**
 * A cache in front of the store that decides. Owns: what is asked where, and what may be cached. Must never let the cache
 * change an answer, nor let anything but `look` wait for it: after the store has spoken, the cache is only told.
 */
import type { Clock } from "../core/clock.js";
import type {
  Cache,
  CacheableStore,
  ClaimRefusal,
  CompleteAnswer,
  OpenTransaction,
  Store,
  TransactionSource,
  Watch,
} from "../core/ports.js";
import type { Operations } from "../core/operations-port.js";
import type { NearCache } from "./near-cache.js";
import type {
  Claim,
  ClaimRequest,
  Completion,
  KeyRecord,
  KeyRef,
  Observation,
  StoredResponse,
} from "../core/record.js";

/** Redis does one thing at a time: moving a larger body through it would make every other key wait. */
const maxCachedBodyBytes = 262_144;
/** What is remembered of claims in progress. Beyond it the oldest is dropped, and its response is cached by its first replay. */
const maxHeldClaims = 10_000;

/** What a record will say that only its claimer knows; kept until the claim ends. */
type HeldRecord = Pick<
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
interface Asked {
  readonly atMs: number;
  readonly epoch: string | undefined;
}

interface HeldClaim {
  readonly record: HeldRecord;
  /** Set by the first try to complete: a later try may be told of the first one's success, and its windows began then. */
  completing?: Asked;
}

interface ClaimedAnswer {
  readonly kind: "claimed";
  readonly claim: Claim;
}

/** What may stand in front of a store. */
interface Tiers {
  /** Shared by processes: a replay costs one round trip to it, and an equal request that runs elsewhere is seen there. */
  readonly cache: Cache | undefined;
  /** This process' own: a replay costs none. */
  readonly near: NearCache | undefined;
}

/** Puts tiers in front of a store. Every answer is one that the store alone would have given a moment earlier. */
export function tiered(
  store: CacheableStore,
  { cache, near, clock }: Tiers & { readonly clock: Clock },
): Store {
  const tier = createTier(store, { cache, near }, clock);
  const held = new Map<string, HeldClaim>();
  const hold = (record: HeldRecord): void => {
    held.set(record.claimId, { record });
    if (held.size <= maxHeldClaims) return;
    for (const oldest of held.keys()) {
      held.delete(oldest);
      return;
    }
  };
  const drop = (claim: Claim): void => {
    held.delete(claim.claimId);
    tier.unmark(claim, "ended");
  };
  const holdClaimed = <Answer extends ClaimedAnswer | ClaimRefusal>(
    request: ClaimRequest,
    observed: KeyRecord | undefined,
    answer: Answer,
  ): Answer => {
    if (answer.kind === "claimed") hold(toHeld(request, observed, answer.claim));
    else if (isMine(request, answer)) hold(answer.record);
    return answer;
  };

  return {
    claim: async (request) => {
      const seen = await tier.look(request);
      if (seen !== undefined) return seen;
      return holdClaimed(request, undefined, await tier.ask(request, () => store.claim(request)));
    },
    takeOver: async (request, observed) => {
      const answer = await tier.ask(request, () => store.takeOver(request, observed));
      // The marker of the look that led here is gone, since the key was somebody else's then.
      if (answer.kind === "claimed") tier.renew([request]);
      return holdClaimed(request, observed, answer);
    },
    complete: async (claim, completion): Promise<CompleteAnswer> => {
      const entry = held.get(claim.claimId);
      const asked = entry?.completing ?? tier.asking();
      if (entry !== undefined) entry.completing = asked;
      const answer = await store.complete(claim, completion);
      if (entry !== undefined && answer.kind === "ok")
        tier.keepCompleted(entry.record, claim, completion, answer, asked);
      else tier.unmark(claim, "ended");
      held.delete(claim.claimId);
      return answer;
    },
    release: async (claim) => {
      try {
        const answer = await store.release(claim);
        held.delete(claim.claimId);
        return answer;
      } finally {
        // Also where the reply was lost: without a marker the store is asked, which is always right.
        tier.unmark(claim, "ended");
      }
    },
    heartbeat: async (claims, leaseMs) => {
      const lost = new Set(await store.heartbeat(claims, leaseMs));
      const alive = claims
        .filter((claim) => !lost.has(claim.claimId))
        .map((claim) => held.get(claim.claimId)?.record);
      tier.renew(alive.filter((record) => record !== undefined));
      for (const claim of claims) if (lost.has(claim.claimId)) drop(claim);
      return [...lost];
    },
    peek: (ref) => tier.peek(ref),
    markNotStored: (claim) => store.markNotStored(claim),
    find: async (ref) => tier.observe(await store.find(ref)),
    reap: (limit, who) => store.reap(limit, who),
    check: () => store.check(),
    // The cache tells when it knows itself what has ended; a hint of the store may come before it does.
    watch: (ref, onHint) => cache?.watch?.(ref, onHint) ?? store.watch?.(ref, onHint) ?? unwatched,
    close: async () => {
      await Promise.all([store.close(), cache?.close()]);
    },
    ...(store.steps === undefined ? {} : { steps: store.steps }),
    ...(store.operations === undefined
      ? {}
      : { operations: tierOperations(store.operations, { cache, near }) }),
    ...(store.transactions === undefined
      ? {}
      : { transactions: tierTransactions(store.transactions, tier) }),
  };
}

/** What an operator erases is erased in the cache too, before the operator is told. */
function tierOperations(operations: Operations, { cache, near }: Tiers): Operations {
  return {
    ...operations,
    forget: async (ref, settler) => {
      const answer = await operations.forget(ref, settler);
      // Also where it had been forgotten before: the last try may have failed here.
      near?.forget(ref);
      await cache?.forget(ref);
      return answer;
    },
  };
}

/** The same around transactions: looked at before one is opened, told of after its commit. */
function tierTransactions(source: TransactionSource, tier: Tier): TransactionSource {
  const wrap = (record: HeldRecord, open: OpenTransaction): OpenTransaction => {
    const send = open.send?.bind(open);
    return {
      tx: open.tx,
      ...(send === undefined ? {} : { send }),
      complete: async (claim, completion) => {
        const asked = tier.asking();
        try {
          const answer = await open.complete(claim, completion);
          if (answer.kind === "committed")
            tier.keepCompleted(record, claim, completion, answer, asked);
          else tier.unmark(claim, "ended");
          return answer;
        } catch (error) {
          tier.unmark(claim, "ended");
          throw error;
        }
      },
      commit: () => open.commit(),
      rollback: async () => {
        await open.rollback();
        tier.unmark(record, "ended");
      },
    };
  };
  return {
    claim: async (request, limits) => {
      const seen = await tier.look(request);
      if (seen !== undefined) return seen;
      const answer = await tier.ask(request, () => source.claim(request, limits));
      if (answer.kind !== "claimed") return answer;
      return { ...answer, open: wrap(toHeld(request, undefined, answer.claim), answer.open) };
    },
    takeOver: async (request, observed, limits) => {
      const answer = await tier.ask(request, () => source.takeOver(request, observed, limits));
      if (answer.kind !== "claimed") return answer;
      return { ...answer, open: wrap(toHeld(request, observed, answer.claim), answer.open) };
    },
    begin: (limits) => source.begin(limits),
    settle: (claim, windows) => source.settle(claim, windows),
    isConflict: (error) => source.isConflict(error),
  };
}

type Tier = ReturnType<typeof createTier>;

/** What plain and transaction routes share: looking, asking the store, and telling the cache what it said. */
function createTier(store: CacheableStore, { cache, near }: Tiers, clock: Clock) {
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

  const asking = (): Asked => ({ atMs: clock.monotonicMs(), epoch: store.epoch() });
  const unmark = (claim: KeyRef & { readonly claimId: string }, why?: "ended"): void => {
    cache?.unmark(claim, claim.claimId, why).catch(ignore);
  };

  /** Caches a record; takes the claimer's marker away where it may not be cached. `why`: as for `unmark`. */
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
      near?.keep(entry);
      cache?.keep(entry).catch(ignore);
    } else unmark({ scope: record.scope, key: record.key, claimId }, why);
  };

  return {
    asking,
    unmark,
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
    /** What the cache can answer for the store, or undefined: ask the store. */
    look: async (request: ClaimRequest): Promise<ClaimRefusal | undefined> => {
      const { epoch, atMs: readAtMs } = asking();
      if (epoch === undefined || cache === undefined) return undefined;
      const answer = await cache.look(request, request, epoch).catch(ignore);
      if (answer?.kind === "running") return { kind: "locked" };
      if (answer?.kind !== "completed" || !isFresh(answer.record)) return undefined;
      const { record, nowMs } = answer;
      const replayLeftMs = (record.replayUntilMs ?? 0) - nowMs;
      if (isCachable(record)) near?.keep({ record, replayLeftMs, readAtMs, epoch });
      return { kind: "exists", record, nowMs };
    },
    /** Asks the store for a claim and tells the cache what came of it. */
    ask: async <Answer extends ClaimedAnswer | ClaimRefusal>(
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

/** A take-over of unfinished work keeps the guarantee and the request id of the first claim; one of an expired key does not. */
function toHeld(request: ClaimRequest, observed: KeyRecord | undefined, claim: Claim): HeldRecord {
  const { scope, key, claimId, fingerprint, fieldHashes, method, path } = request;
  const { guarantee, requestId } = observed !== undefined && claim.attempt > 1 ? observed : request;
  return { scope, key, claimId, fingerprint, fieldHashes, method, path, guarantee, requestId };
}

/** The asker's own claim, whose reply was lost. */
function isMine(
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

const unwatched: Watch = { isLive: () => false, stop: () => undefined };

function ignore(): undefined {
  return undefined;
}
