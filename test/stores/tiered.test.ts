import { randomUUID } from "node:crypto";

import type { Redis } from "ioredis";

import { systemClock } from "../../src/core/clock.js";
import type { CacheableStore, OpenTransaction, Store } from "../../src/core/ports.js";
import type { Claim, ClaimRequest, KeyRef, StoredResponse } from "../../src/core/record.js";
import { migrate, postgresStore } from "../../src/stores/postgres.js";
import { redisCache } from "../../src/stores/redis.js";
import { entryName } from "../../src/stores/redis-entry.js";
import { tiered } from "../../src/stores/tiered.js";
import { waitFor } from "../support/wait-for.js";
import {
  advanceClock,
  claimed,
  connectRedis,
  created,
  flushPrefix,
  leaseMs,
  listening,
  newPrefix,
  newRef,
  newFingerprint,
  newRequest,
  settled,
  useMigratedDatabase,
  windows,
} from "./open-stores.js";

const database = useMigratedDatabase();
const limits = { timeoutMs: 10_000 };
/** Machines that run tests are busy: where time is no subject, no time-out may hide what is. */
const patientMs = 5_000;

let prefix: string;
let redis: Redis;
let postgres: CacheableStore;
let store: Store;
const asked: string[] = [];
let ref: KeyRef;
/** Added to the monotonic clock of the tier, and of the cache. */
let laterMs: number;

function tier(inner: CacheableStore, client = redis): Store {
  const clock = { ...systemClock, monotonicMs: () => performance.now() + laterMs };
  const cache = redisCache({ client, prefix, clock, budgetMs: patientMs });
  return tiered(listening(inner, asked), { cache, near: undefined, clock });
}

async function completed(given: Partial<ClaimRequest> = {}, response = created): Promise<Claim> {
  const claim = await claimed(store.claim(newRequest(ref, given)));
  expect((await store.complete(claim, { response, ...windows })).kind).toBe("ok");
  await settled(redis);
  return claim;
}

async function entry(): Promise<string | undefined> {
  await settled(redis);
  const value = await redis.get(entryName(prefix, ref));
  return value?.split(" ").slice(0, 2).join(" ");
}

/** A claim of another process that does not use Redis, or has lost it. */
async function claimElsewhere(given: Partial<ClaimRequest> = {}): Promise<Claim> {
  return claimed(postgres.claim(newRequest(ref, given)));
}

beforeEach(async () => {
  laterMs = 0;
  asked.length = 0;
  prefix = newPrefix();
  redis = await connectRedis();
  postgres = postgresStore({ pool: database.pool });
  store = tier(postgres);
  ref = newRef();
  // The epoch is read with the first connection, and without it Redis is not asked.
  await store.find(ref);
});

afterEach(async () => {
  await store.close();
  await flushPrefix([redis], prefix);
  redis.disconnect();
});

describe("what the cache answers", () => {
  test("a replay asks Redis alone, and says what Postgres would", async () => {
    const odd: StoredResponse = {
      status: 402,
      statusMessage: "No",
      headers: [["x", ["1", "2"]]],
      removedHeaders: ["etag"],
      body: Buffer.from([0, 10, 13, 255]),
    };
    await completed({ guarantee: "rerun", requestId: "req_9" }, odd);
    asked.length = 0;
    const answer = await store.claim(newRequest(ref));
    expect(asked).toEqual([]);
    const direct = await postgres.find(ref);
    expect(answer).toEqual({ kind: "exists", ...direct, nowMs: expect.any(Number) });
    // Both times are of one clock: the difference is what passed between the two readings.
    const nowMs = answer.kind === "exists" ? answer.nowMs : 0;
    expect(Math.abs((direct?.nowMs ?? 0) - nowMs)).toBeLessThan(2_000);
  });

  test("a mismatch is seen in a completed entry", async () => {
    await completed();
    asked.length = 0;
    const answer = await store.claim(newRequest(ref, { fingerprint: newFingerprint("v1::two") }));
    expect(answer).toMatchObject({ kind: "exists", record: { fingerprint: "v1::one" } });
    expect(asked).toEqual([]);
  });

  test("a running equal request is told without Postgres, a mismatch asks it", async () => {
    const claim = await claimed(store.claim(newRequest(ref)));
    asked.length = 0;
    expect(await store.claim(newRequest(ref))).toEqual({ kind: "locked" });
    expect(asked).toEqual([]);
    expect(
      await store.claim(newRequest(ref, { fingerprint: newFingerprint("v1::two") })),
    ).toMatchObject({
      kind: "exists",
      record: { state: "running", claimId: claim.claimId, fingerprint: "v1::one" },
    });
    expect(asked).toEqual(["claim"]);
    // The other request's question took nobody's marker away.
    expect(await store.claim(newRequest(ref))).toEqual({ kind: "locked" });
    expect(asked).toEqual(["claim"]);
  });

  test("a first replay from Postgres is kept for the next", async () => {
    const claim = await claimElsewhere();
    await postgres.complete(claim, { response: created, ...windows });
    expect((await store.claim(newRequest(ref))).kind).toBe("exists");
    expect(asked).toEqual(["claim"]);
    expect((await store.claim(newRequest(ref))).kind).toBe("exists");
    expect(asked).toEqual(["claim"]);
  });

  test("a claim whose reply was lost asks Postgres and finds itself, and is kept at its end", async () => {
    const request = newRequest(ref);
    const claim = await claimElsewhere(request);
    const answer = await store.claim(request);
    expect(answer).toMatchObject({ kind: "exists", record: { claimId: request.claimId } });
    expect(await entry()).toBe("v1 running");
    await store.complete(claim, { response: created, ...windows });
    expect(await entry()).toBe("v1 completed");
  });

  test("nothing is looked up while the epoch is unknown", async () => {
    await completed();
    const fresh = tier(postgresStore({ pool: database.pool }));
    asked.length = 0;
    expect((await fresh.claim(newRequest(ref))).kind).toBe("exists");
    expect(asked).toEqual(["claim"]);
    await fresh.close();
  });

  test("a new epoch makes every entry a miss", async () => {
    await completed();
    await migrate({ pool: database.pool, newEpoch: true });
    const fresh = tier(postgresStore({ pool: database.pool }));
    await fresh.find(ref);
    asked.length = 0;
    expect((await fresh.claim(newRequest(ref))).kind).toBe("exists");
    expect(asked).toEqual(["claim"]);
    await fresh.close();
  });

  test("an entry that lives longer than its replay window is a miss", async () => {
    await completed();
    // As a write leaves it that waited inside a hung Redis.
    await redis.pexpire(entryName(prefix, ref), windows.dedupeWindowMs);
    asked.length = 0;
    expect((await store.claim(newRequest(ref))).kind).toBe("exists");
    expect(asked).toEqual([]);
    laterMs += windows.replayWindowMs;
    expect((await store.claim(newRequest(ref))).kind).toBe("exists");
    expect(asked).toEqual(["claim"]);
  });
});

describe("what is told to the cache", () => {
  test("release takes the marker away at once", async () => {
    const claim = await claimed(store.claim(newRequest(ref)));
    expect(await entry()).toBe("v1 running");
    expect(await store.release(claim)).toBe("ok");
    expect(await entry()).toBeUndefined();
    expect((await store.claim(newRequest(ref))).kind).toBe("claimed");
  });

  test("a claim that Postgres refuses leaves no marker", async () => {
    await claimElsewhere();
    expect((await store.claim(newRequest(ref))).kind).toBe("exists");
    expect(await entry()).toBeUndefined();
  });

  test("a claim that finds an uncommitted one leaves no marker", async () => {
    const rival = await postgres.transactions?.claim(newRequest(ref), limits);
    if (rival?.kind !== "claimed") throw new Error("claimed was expected");
    expect(await store.claim(newRequest(ref))).toEqual({ kind: "locked" });
    expect(await entry()).toBeUndefined();
    await rival.open.rollback();
    expect((await store.claim(newRequest(ref))).kind).toBe("claimed");
  });

  test("a claim that fails leaves no marker", async () => {
    await expect(store.claim(newRequest(ref, { claimId: "not-a-uuid" }))).rejects.toThrow();
    expect(await entry()).toBeUndefined();
  });

  test("heartbeats set markers again, and take those of lost claims away", async () => {
    const claim = await claimed(store.claim(newRequest(ref)));
    await flushPrefix([redis], prefix);
    expect(await store.heartbeat([claim], leaseMs)).toEqual([]);
    expect(await entry()).toBe("v1 running");
    await database.pool.query("DELETE FROM idempotency_keys WHERE scope = $1", [ref.scope]);
    expect(await store.heartbeat([claim], leaseMs)).toEqual([claim.claimId]);
    expect(await entry()).toBeUndefined();
  });

  test("a lost completion leaves neither marker nor entry", async () => {
    const claim = await claimed(store.claim(newRequest(ref)));
    await database.pool.query("DELETE FROM idempotency_keys WHERE scope = $1", [ref.scope]);
    expect(await store.complete(claim, { response: created, ...windows })).toEqual({
      kind: "lost",
    });
    expect(await entry()).toBeUndefined();
  });

  test("a take-over is marked, and kept as Postgres has it", async () => {
    await claimElsewhere({ guarantee: "rerun", requestId: "req_first" });
    await advanceClock(database.pool, leaseMs + 1_000);
    const request = newRequest(ref, { guarantee: "steps", requestId: "req_second" });
    const observed = await store.claim(request);
    if (observed.kind !== "exists") throw new Error("the abandoned key exists");
    const claim = await claimed(store.takeOver(request, observed.record));
    expect(await entry()).toBe("v1 running");
    await store.complete(claim, { response: created, ...windows });
    asked.length = 0;
    const answer = await store.claim(newRequest(ref));
    expect(asked).toEqual([]);
    expect(answer).toMatchObject({
      record: { attempt: 2, requestId: "req_first", guarantee: "rerun" },
    });
    expect(answer).toEqual({
      kind: "exists",
      ...(await postgres.find(ref)),
      nowMs: expect.any(Number),
    });
  });

  test("what cannot be replayed is not kept, and is answered by Postgres at once", async () => {
    const claim = await claimed(store.claim(newRequest(ref)));
    await store.markNotStored(claim);
    await store.complete(claim, { response: "not_stored", ...windows });
    expect(await entry()).toBeUndefined();
    expect(await store.claim(newRequest(ref))).toMatchObject({ record: { notStored: true } });
    expect(await entry()).toBeUndefined();
  });

  test("a large body is not kept", async () => {
    await completed({}, { ...created, body: Buffer.alloc(262_145) });
    expect(await entry()).toBeUndefined();
    ref = newRef();
    await completed({}, { ...created, body: Buffer.alloc(262_144) });
    expect(await entry()).toBe("v1 completed");
  });

  test("an expired or forgotten key is not kept", async () => {
    await completed();
    await flushPrefix([redis], prefix);
    await advanceClock(database.pool, windows.replayWindowMs + 1_000);
    expect((await store.claim(newRequest(ref))).kind).toBe("exists");
    expect(await entry()).toBeUndefined();
    await store.reap(1_000);
    expect(await store.claim(newRequest(ref))).toMatchObject({ record: { state: "forgotten" } });
    expect(await entry()).toBeUndefined();
  });

  test("a completion that was under way when the key was forgotten is refused", async () => {
    const claim = await claimed(store.claim(newRequest(ref)));
    const cache = redisCache({ client: redis, prefix, budgetMs: patientMs });
    await cache.forget(ref);
    await store.complete(claim, { response: created, ...windows });
    expect(await entry()).toBe("v1 forgotten");
    asked.length = 0;
    expect((await store.claim(newRequest(ref))).kind).toBe("exists");
    expect(asked).toEqual(["claim"]);
  });

  test("a completion repeated after a lost reply lives from the first try", async () => {
    let isLost = true;
    const losing: CacheableStore = {
      ...postgres,
      complete: async (...input) => {
        const answer = await postgres.complete(...input);
        if (!isLost) return answer;
        throw new Error("the reply was lost");
      },
    };
    const lossy = tier(losing);
    const claim = await claimed(lossy.claim(newRequest(ref)));
    const completion = { response: created, ...windows };
    await expect(lossy.complete(claim, completion)).rejects.toThrow("the reply was lost");
    isLost = false;
    laterMs += 600_000;
    expect((await lossy.complete(claim, completion)).kind).toBe("ok");
    await waitFor(async () => (await entry())?.startsWith("v1 completed") === true);
    const leftMs = await redis.pttl(entryName(prefix, ref));
    expect(leftMs).toBeLessThanOrEqual(windows.replayWindowMs - 600_000);
    expect(leftMs).toBeGreaterThan(windows.replayWindowMs - 660_000);
  });
});

describe("transaction routes", () => {
  async function begin(
    given: Partial<ClaimRequest> = {},
  ): Promise<{ claim: Claim; open: OpenTransaction }> {
    const request = newRequest(ref, { guarantee: "transaction", ...given });
    const answer = await store.transactions?.claim(request, limits);
    if (answer?.kind !== "claimed") throw new Error(`claimed was expected, ${answer?.kind} came`);
    return answer;
  }

  test("a committed response is kept, and replayed without a connection of the pool", async () => {
    const { claim, open } = await begin();
    expect(await entry()).toBe("v1 running");
    const answer = await open.complete(claim, { response: created, ...windows });
    expect(answer.kind).toBe("committed");
    asked.length = 0;
    const replay = await store.transactions?.claim(newRequest(ref), limits);
    expect(asked).toEqual([]);
    expect(replay).toEqual({
      kind: "exists",
      ...(await postgres.find(ref)),
      nowMs: expect.any(Number),
    });
  });

  test("a rollback frees the key at once", async () => {
    const { open } = await begin();
    expect(await store.transactions?.claim(newRequest(ref), limits)).toEqual({ kind: "locked" });
    await open.rollback();
    expect(await entry()).toBeUndefined();
    const again = await begin();
    await again.open.rollback();
  });

  test("a commit that fails leaves neither marker nor entry", async () => {
    const { claim, open } = await begin();
    const answer = await open.complete(claim, { response: "not_stored", ...windows });
    expect(answer.kind).toBe("rolled_back");
    expect(await entry()).toBeUndefined();
    expect(await store.find(ref)).toBeUndefined();
  });

  test("a take-over of an expired key is kept", async () => {
    const old = await claimElsewhere({ requestId: "req_old" });
    await postgres.complete(old, { response: created, ...windows });
    await advanceClock(database.pool, windows.dedupeWindowMs + 1_000);
    const request = newRequest(ref, { guarantee: "transaction", requestId: "req_new" });
    const found = await postgres.find(ref);
    if (found === undefined) throw new Error("the key exists");
    const answer = await store.transactions?.takeOver(request, found.record, limits);
    if (answer?.kind !== "claimed") throw new Error("claimed was expected");
    await answer.open.complete(answer.claim, { response: created, ...windows });
    asked.length = 0;
    const replay = await store.claim(newRequest(ref));
    expect(asked).toEqual([]);
    expect(replay).toMatchObject({ record: { requestId: "req_new", attempt: 1 } });
    expect(replay).toEqual({
      kind: "exists",
      ...(await postgres.find(ref)),
      nowMs: expect.any(Number),
    });
  });

  test("transactions without a key are untouched", async () => {
    const open = await store.transactions?.begin(limits);
    expect((await open?.commit())?.kind).toBe("committed");
    const claim = { ...ref, claimId: randomUUID(), token: 1, attempt: 1 };
    expect(await store.transactions?.settle(claim, windows)).toBeUndefined();
  });
});
