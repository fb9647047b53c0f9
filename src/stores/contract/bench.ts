/**
 * What the cases of the store contract share: requests, expectations, and patience with a key that is held.
 */
import assert from "node:assert/strict";
import { systemClock } from "../../core/clock.js";
import type { ClaimAnswer, Store } from "../../core/ports.js";
import type {
  Claim,
  ClaimRequest,
  Completion,
  KeyRecord,
  KeyRef,
  Observation,
  StoredFingerprint,
  StoredResponse,
} from "../../core/record.js";

/** A store to be tested, empty or with keys of other scopes in it. */
export interface StoreUnderTest {
  readonly store: Store;
  /** Another instance on the same data, as another process would have it. Default: the same one. */
  readonly second?: Store;
  /** Moves the store's clock on. */
  advance(ms: number): Promise<void> | void;
  /** Ends the stores and whatever `open` opened. */
  close(): Promise<void> | void;
}

export interface Bench extends Required<StoreUnderTest> {
  /** A key that no other test uses. */
  readonly ref: KeyRef;
}

export type Cases = Readonly<Record<string, (bench: Bench) => Promise<void>>>;

export const leaseMs = 60_000;
export const replayWindowMs = 3_600_000;
export const dedupeWindowMs = 86_400_000;
export const hello: StoredResponse = {
  status: 201,
  headers: [["Content-Type", "text/plain"]],
  body: Buffer.from("hello"),
};
/** An uncommitted claim, or a cache that has not heard of its end yet, is over within this many looks. */
const maxLooks = 1_000;

export function newRef(): KeyRef {
  return { scope: `contract-${systemClock.uuid()}`, key: "a-key" };
}

export function newRequest(ref: KeyRef, given: Partial<ClaimRequest> = {}): ClaimRequest {
  return {
    ...ref,
    claimId: systemClock.uuid(),
    guarantee: "at_most_once",
    fingerprint: newFingerprint("v1::c29tZXRoaW5n"),
    method: "POST",
    path: "/orders",
    requestId: "req_0",
    leaseMs,
    ...given,
  };
}

export function newFingerprint(text: string): StoredFingerprint {
  return { text, fieldHashes: '{"method":"aa","body.amount":"bb"}' };
}

export function completion(response: Completion["response"]): Completion {
  return { response, replayWindowMs, dedupeWindowMs };
}

export async function claimed(answer: Promise<ClaimAnswer>): Promise<Claim> {
  const got = await answer;
  assert.equal(got.kind, "claimed");
  return (got as { readonly claim: Claim }).claim;
}

export async function complete(
  store: Store,
  claim: Claim,
  response: StoredResponse,
): Promise<void> {
  assert.equal((await store.complete(claim, completion(response))).kind, "ok");
}

/** Claims like a client that retries while the key is held. */
export async function settled(store: Store, request: ClaimRequest): Promise<ClaimAnswer> {
  for (let look = 0; look < maxLooks; look += 1) {
    const answer = await store.claim(request);
    if (answer.kind !== "locked") return answer;
    await systemClock.sleep(5);
  }
  throw new assert.AssertionError({ message: "the key stayed locked although nobody holds it" });
}

/** What a claimer is told of a key that has ended. */
export async function seen(store: Store, request: ClaimRequest): Promise<Observation> {
  const answer = await settled(store, request);
  assert.equal(answer.kind, "exists");
  return answer;
}

export async function existing(store: Store, ref: KeyRef): Promise<Observation> {
  const found = await store.find(ref);
  assert.ok(found !== undefined, "the key exists");
  return found;
}

/** Reaps until nothing is due. */
export async function reapAll(store: Store): Promise<void> {
  for (let round = 0; round < maxLooks; round += 1) {
    const { forgotten, deleted } = await store.reap(1_000);
    if (forgotten + deleted === 0) return;
  }
  throw new assert.AssertionError({ message: "the reaper came to no end" });
}

export function assertFields(record: KeyRecord, expected: Partial<KeyRecord>): void {
  for (const name of Object.keys(expected) as (keyof KeyRecord)[]) {
    assert.deepEqual(record[name], expected[name], name);
  }
}

export function assertResponse(actual: StoredResponse | undefined, expected: StoredResponse): void {
  assert.ok(actual !== undefined, "the response is stored");
  const { body, ...head } = actual;
  const { body: expectedBody, ...expectedHead } = expected;
  assert.deepEqual(head, expectedHead);
  assert.equal(Buffer.compare(body, expectedBody), 0, "the bodies are equal byte for byte");
}
