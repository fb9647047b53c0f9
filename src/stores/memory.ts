/**
 * A store in the memory of one process, for tests and demos. Owns: the same transitions as the SQL beside it, so that what
 * is tried here holds there. Must never be taken for durable: its keys end with the process, and no other process sees them.
 */
import { systemClock } from "../core/clock.js";
import type { Clock } from "../core/clock.js";
import { nameOf } from "../core/key.js";
import type { ClaimAnswer, Store } from "../core/ports.js";
import type {
  Claim,
  ClaimRequest,
  KeyRecord,
  KeyRef,
  Observation,
  StoredResponse,
} from "../core/record.js";
import { toHead } from "./rows.js";
import type { ResponseHead } from "./rows.js";

export type { Store } from "../core/ports.js";

export interface MemoryStoreOptions {
  /**
   * The store's clock. Windows and leases are counted by it, and what it says is shown to clients as a date. Default: a clock
   * that starts at the wall clock's time and never goes back.
   */
  readonly clock?: Pick<Clock, "monotonicMs">;
}

/** A demo that gets here is no demo any more; refusing work beats ending the process by exhausting its memory. */
const maxKeys = 100_000;

const defaultClock: Pick<Clock, "monotonicMs"> = {
  monotonicMs: () => performance.timeOrigin + systemClock.monotonicMs(),
};

/**
 * A store for one process. It keeps every promise of a store except surviving the process, and it has no transactions, so
 * transaction routes cannot use it.
 */
export function memoryStore(options: MemoryStoreOptions = {}): Store {
  const clock = options.clock ?? defaultClock;
  const records = new Map<string, KeyRecord>();
  let lastToken = 0;
  const now = (): number => Math.floor(clock.monotonicMs());

  /** What a reader gets is a copy: neither side can change the other's bytes. */
  const read = (ref: KeyRef): Observation | undefined => {
    const record = records.get(nameOf(ref));
    if (record === undefined) return undefined;
    const response = record.response === undefined ? undefined : copyOf(record.response);
    return { record: { ...record, response }, nowMs: now() };
  };
  const found = (ref: KeyRef): ClaimAnswer => {
    const observation = read(ref);
    return observation === undefined ? { kind: "locked" } : { kind: "exists", ...observation };
  };
  const write = (record: KeyRecord): void => {
    records.set(nameOf(record), record);
  };
  /** The record of a claim that is still its holder's. */
  const heldBy = (claim: Claim): KeyRecord | undefined => {
    const record = records.get(nameOf(claim));
    return record?.claimId === claim.claimId && record.token === claim.token ? record : undefined;
  };
  const begin = (request: ClaimRequest, before: KeyRecord | undefined): ClaimAnswer => {
    const unfinished =
      before?.state === "running" || before?.state === "parked" ? before : undefined;
    lastToken += 1;
    const { scope, key, claimId, fingerprint, method, path } = request;
    const token = lastToken;
    const attempt = (unfinished?.attempt ?? 0) + 1;
    write({
      scope,
      key,
      claimId,
      token,
      attempt,
      fingerprint: fingerprint.text,
      fieldHashes: fingerprint.fieldHashes,
      method,
      path,
      state: "running",
      guarantee: unfinished?.guarantee ?? request.guarantee,
      requestId: unfinished?.requestId ?? request.requestId,
      leaseUntilMs: now() + request.leaseMs,
      nextAttemptMs: undefined,
      notStored: false,
      response: undefined,
      replayUntilMs: undefined,
      dedupeUntilMs: undefined,
    });
    return { kind: "claimed", claim: { scope, key, claimId, token, attempt } };
  };

  return {
    claim: async (request) => {
      checkRef(request);
      if (records.has(nameOf(request))) return found(request);
      if (records.size >= maxKeys)
        throw new RangeError(`the memory store holds ${maxKeys} keys and takes no more`);
      return begin(request, undefined);
    },
    takeOver: async (request, observed) => {
      const record = records.get(nameOf(request));
      if (record === undefined || record.token !== observed.token || !isOver(record, now()))
        return found(request);
      return begin(request, record);
    },
    complete: async (claim, { response, replayWindowMs, dedupeWindowMs }) => {
      if (dedupeWindowMs < replayWindowMs)
        throw new RangeError("the dedupe window is shorter than the replay window");
      const record = heldBy(claim);
      if (record?.state === "completed" && record.replayUntilMs !== undefined) {
        return { kind: "ok", replayUntilMs: record.replayUntilMs };
      }
      if (record?.state !== "running") return { kind: "lost" };
      const nowMs = now();
      const replayUntilMs = nowMs + replayWindowMs;
      write({
        ...record,
        state: "completed",
        leaseUntilMs: undefined,
        notStored: response === "not_stored",
        response: response === "not_stored" ? undefined : copyOf(response),
        replayUntilMs,
        dedupeUntilMs: nowMs + dedupeWindowMs,
      });
      return { kind: "ok", replayUntilMs };
    },
    markNotStored: async (claim) => {
      const record = heldBy(claim);
      if (record?.state !== "running") return "lost";
      write({ ...record, notStored: true });
      return "ok";
    },
    release: async (claim) => {
      if (heldBy(claim)?.state !== "running") return "lost";
      records.delete(nameOf(claim));
      return "ok";
    },
    heartbeat: async (claims, leaseMs) => {
      const lost: string[] = [];
      for (const claim of claims) {
        const record = heldBy(claim);
        if (record?.state === "running") write({ ...record, leaseUntilMs: now() + leaseMs });
        else lost.push(claim.claimId);
      }
      return lost;
    },
    find: async (ref) => read(ref),
    reap: async (limit) => {
      const nowMs = now();
      const due = [...records.values()]
        .filter((record) => (reapAtMs(record) ?? Infinity) <= nowMs)
        .slice(0, limit);
      const over = due.filter((record) => isOver(record, nowMs));
      for (const record of over) records.delete(nameOf(record));
      const forgotten = due.filter((record) => !isOver(record, nowMs));
      for (const record of forgotten)
        write({ ...record, state: "forgotten", notStored: false, response: undefined });
      return { forgotten: forgotten.length, deleted: over.length };
    },
    check: () => Promise.resolve(),
    close: () => Promise.resolve(),
  };
}

/** Whether a key may be claimed anew: take-over.sql says the same. */
function isOver(record: KeyRecord, nowMs: number): boolean {
  if (record.state === "parked") return true;
  const untilMs = record.state === "running" ? record.leaseUntilMs : record.dedupeUntilMs;
  return untilMs !== undefined && untilMs <= nowMs;
}

/** Running and parked keys are never reaped. */
function reapAtMs(record: KeyRecord): number | undefined {
  if (record.state === "completed") return record.replayUntilMs;
  return record.state === "forgotten" ? record.dedupeUntilMs : undefined;
}

function copyOf(response: StoredResponse): StoredResponse {
  const head = JSON.parse(toHead(response)) as ResponseHead;
  return { status: response.status, ...head, body: Buffer.from(response.body) };
}

/** What the table's constraints refuse. */
function checkRef(ref: KeyRef): void {
  if (ref.scope === "") throw new RangeError("the scope is empty");
  if (ref.key.length === 0 || ref.key.length > 255)
    throw new RangeError("the key has not 1 to 255 characters");
}
