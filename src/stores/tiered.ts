/**
 * A cache in front of the store that decides. Owns: what is asked where, and what may be cached. Must never let the cache
 * change an answer, nor let anything but a look wait for it: after the store has spoken, the cache is only told.
 */
import type { Clock } from "../core/clock.js";
import type {
  CacheableStore,
  ClaimRefusal,
  CompleteAnswer,
  OpenTransaction,
  Store,
  TransactionSource,
  Watch,
} from "../core/ports.js";
import type { Operations } from "../core/operations-port.js";
import type { Claim, ClaimRequest, KeyRecord } from "../core/record.js";
import { createTier, isMine } from "./tier.js";
import type { Asked, ClaimedAnswer, HeldRecord, Tier, Tiers } from "./tier.js";

/** What is remembered of claims in progress. Beyond it the oldest is dropped, and its response is cached by its first replay. */
const maxHeldClaims = 10_000;

interface HeldClaim {
  readonly record: HeldRecord;
  /** Set by the first try to complete: a later try may be told of the first one's success, and its windows began then. */
  completing?: Asked;
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
    if (!tier.keepsEnded()) return answer;
    if (answer.kind === "claimed") hold(toHeld(request, observed, answer.claim));
    else if (isMine(request, answer)) hold(answer.record);
    return answer;
  };

  return {
    claim: async (request) => {
      const answer = await tier.claim(request, () => store.claim(request));
      return holdClaimed(request, undefined, answer);
    },
    takeOver: async (request, observed) => {
      const answer = await tier.ask(request, () => store.takeOver(request, observed));
      // A marker of the look that led here is gone, since the key was somebody else's then.
      if (answer.kind === "claimed") tier.renew([toHeld(request, observed, answer.claim)]);
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
    return {
      tx: open.tx,
      send: open.send,
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
      const answer = await tier.claim(request, () => source.claim(request, limits));
      if (answer.kind !== "claimed" || !tier.keepsEnded()) return answer;
      const { claim, open } = answer;
      return { kind: "claimed", claim, open: wrap(toHeld(request, undefined, claim), open) };
    },
    takeOver: async (request, observed, limits) => {
      const answer = await tier.ask(request, () => source.takeOver(request, observed, limits));
      if (answer.kind !== "claimed") return answer;
      const { claim, open } = answer;
      return { kind: "claimed", claim, open: wrap(toHeld(request, observed, claim), open) };
    },
    begin: (limits) => source.begin(limits),
    settle: (claim, windows) => source.settle(claim, windows),
    isConflict: (error) => source.isConflict(error),
  };
}

/** A take-over of unfinished work keeps the guarantee and the request id of the first claim; one of an expired key does not. */
function toHeld(request: ClaimRequest, observed: KeyRecord | undefined, claim: Claim): HeldRecord {
  const { scope, key, claimId, method, path } = request;
  const { text: fingerprint, fieldHashes } = request.fingerprint;
  const { guarantee, requestId } = observed !== undefined && claim.attempt > 1 ? observed : request;
  return { scope, key, claimId, fingerprint, fieldHashes, method, path, guarantee, requestId };
}

const unwatched: Watch = { isLive: () => false, stop: () => undefined };
