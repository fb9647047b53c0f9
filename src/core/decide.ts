/**
 * The state machine of a key: one pure total function. Owns every decision on what a request for a known key may do;
 * adapters and stores hold no policy. Must never read a clock or a store.
 */
import type { RefusalCode } from "./errors.js";
import type { Guarantee, KeyRecord } from "./record.js";

/** How the stored fingerprint compares with the request's. `unknown_secret`: it cannot be recomputed here. */
export type FingerprintComparison = "same" | "other" | "unknown_secret";

export type Decision =
  /** The record carries the asker's own claim id: the reply to its claim was lost, and the claim is its. */
  | { readonly kind: "run" }
  | { readonly kind: "replay" }
  | { readonly kind: "refuse"; readonly code: RefusalCode }
  /** Claim the key anew, provided that it is still as observed. */
  | { readonly kind: "take_over"; readonly because: "abandoned" | "expired" };

/**
 * Decides what a request may do about a record.
 *
 * @param record what the store holds
 * @param request the asker's claim id and guarantee, and how its fingerprint compares with the record's
 * @param nowMs the store's clock when the record was read
 */
export function decide(
  record: KeyRecord,
  request: {
    readonly claimId: string;
    readonly guarantee: Guarantee;
    readonly comparison: FingerprintComparison;
  },
  nowMs: number,
): Decision {
  // After the dedupe window the key means nothing any more, so neither does its fingerprint. Judged here and not by
  // reaping, so that a late reaper changes no answer.
  if (isOver(record.dedupeUntilMs, nowMs)) return { kind: "take_over", because: "expired" };
  if (record.state === "running" && record.claimId === request.claimId) return { kind: "run" };
  // A mismatch is reported before anything else is said of the key. A fingerprint made with a secret that this process
  // does not have is no mismatch: a 422 would be final for the client, and it may be wrong.
  if (request.comparison === "unknown_secret") return refuse("store_unavailable");
  if (request.comparison === "other") return refuse("key_reused");
  switch (record.state) {
    case "completed":
      if (record.notStored) return refuse("response_not_stored");
      if (isOver(record.replayUntilMs, nowMs)) return refuse("key_expired");
      return { kind: "replay" };
    case "forgotten":
      return refuse("key_expired");
    case "running":
      return isOver(record.leaseUntilMs, nowMs)
        ? decideAbandoned(record, request.guarantee)
        : refuse("in_progress");
    case "parked":
      // Set aside after too many failures: only an operator moves it.
      return record.nextAttemptMs === undefined
        ? refuse("outcome_unknown")
        : decideAbandoned(record, request.guarantee);
    default:
      return unreachable(record.state);
  }
}

/** Names of the fields whose hashes differ, sorted; at most as many as help a reader. Both are JSON, as fingerprints give them. */
export function differingFields(stored: string, asked: string, most = 20): string[] {
  const before = JSON.parse(stored) as Readonly<Record<string, string>>;
  const now = JSON.parse(asked) as Readonly<Record<string, string>>;
  const names = new Set([...Object.keys(before), ...Object.keys(now)]);
  return [...names]
    .filter((name) => before[name] !== now[name])
    .sort()
    .slice(0, most);
}

const takeOverAbandoned: Decision = { kind: "take_over", because: "abandoned" };

/**
 * By the guarantee under which the work was begun. A route that a deploy has turned into one of another kind cannot go on
 * with it: only steps know where steps ended.
 */
function decideAbandoned(record: KeyRecord, asked: Guarantee): Decision {
  // Bytes of an unstored response may have reached the client, so even a route that allows a rerun has none here.
  if (record.notStored) return refuse("outcome_unknown");
  switch (record.guarantee) {
    case "at_most_once":
      return refuse("outcome_unknown");
    case "rerun":
      return asked === "rerun" || asked === "at_most_once"
        ? takeOverAbandoned
        : refuse("outcome_unknown");
    case "steps":
      return asked === "steps" ? takeOverAbandoned : refuse("outcome_unknown");
    case "transaction":
      // The row of a transaction route is never visible while it runs. If one is, somebody committed it by hand, and
      // with it possibly business rows.
      return refuse("outcome_unknown");
    default:
      return unreachable(record.guarantee);
  }
}

function isOver(untilMs: number | undefined, nowMs: number): boolean {
  return untilMs !== undefined && untilMs <= nowMs;
}

function refuse(code: RefusalCode): Decision {
  return { kind: "refuse", code };
}

function unreachable(value: never): never {
  throw new TypeError(`unknown word in a record: ${String(value)}`);
}
