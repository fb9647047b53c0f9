/** What a process remembers of completed keys: for how long, how much, and in which history. */
import type { CacheEntry } from "../../src/core/ports.js";
import { createNearCache } from "../../src/stores/near-cache.js";
import { createManualClock } from "../support/manual-clock.js";

const ref = { scope: "acme", key: "k1" };

function entryOf(key: string, bytes: number, readAtMs: number, replayLeftMs = 60_000): CacheEntry {
  return {
    readAtMs,
    replayLeftMs,
    epoch: "e1",
    record: {
      scope: "acme",
      key,
      state: "completed",
      claimId: "00000000-0000-4000-8000-000000000001",
      token: 1,
      attempt: 1,
      guarantee: "at_most_once",
      fingerprint: "v1::abc",
      fieldHashes: "{}",
      method: "POST",
      path: "/orders",
      requestId: "req_1",
      leaseUntilMs: undefined,
      nextAttemptMs: undefined,
      notStored: false,
      response: { status: 201, headers: [], body: Buffer.alloc(bytes) },
      replayUntilMs: 1_000_000,
      dedupeUntilMs: 2_000_000,
    },
  };
}

function bench(maxBytes = 1_000_000) {
  const clock = createManualClock();
  const near = createNearCache({ maxBytes, maxAgeMs: 30_000, clock });
  return { clock, near };
}

test("answers with the store's time, moved on by what has passed", async () => {
  const { clock, near } = bench();
  near.keep(entryOf("k1", 10, clock.monotonicMs()));
  await clock.advance(7);
  expect(near.look(ref, "e1")?.nowMs).toBe(1_000_000 - 60_000 + 7);
});

test("forgets at its age, counted from before the record was read", async () => {
  const { clock, near } = bench();
  near.keep(entryOf("k1", 10, clock.monotonicMs() - 1_000));
  await clock.advance(28_999);
  expect(near.look(ref, "e1")).toBeDefined();
  await clock.advance(1);
  expect(near.look(ref, "e1")).toBeUndefined();
});

test("forgets at the end of the replay window", async () => {
  const { clock, near } = bench();
  near.keep(entryOf("k1", 10, clock.monotonicMs(), 5_000));
  await clock.advance(4_999);
  expect(near.look(ref, "e1")).toBeDefined();
  await clock.advance(1);
  expect(near.look(ref, "e1")).toBeUndefined();
});

test("knows nothing of another history", () => {
  const { clock, near } = bench();
  near.keep(entryOf("k1", 10, clock.monotonicMs()));
  expect(near.look(ref, "e2")).toBeUndefined();
  expect(near.look(ref, "e1")).toBeUndefined();
});

test("keeps scopes apart, and forgets what it is told to", () => {
  const { clock, near } = bench();
  near.keep(entryOf("k1", 10, clock.monotonicMs()));
  expect(near.look({ scope: "other", key: "k1" }, "e1")).toBeUndefined();
  near.forget(ref);
  expect(near.look(ref, "e1")).toBeUndefined();
});

test("drops the least recently used beyond its bytes, and never takes one that is larger than all", () => {
  const { clock, near } = bench(10_000);
  for (const key of ["k1", "k2"]) near.keep(entryOf(key, 3_500, clock.monotonicMs()));
  near.look(ref, "e1");
  near.keep(entryOf("k3", 3_500, clock.monotonicMs()));
  near.keep(entryOf("k4", 20_000, clock.monotonicMs()));
  const known = ["k1", "k2", "k3", "k4"].filter((key) => near.look({ ...ref, key }, "e1"));
  expect(known).toEqual(["k1", "k3"]);
});
