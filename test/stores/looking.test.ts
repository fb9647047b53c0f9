import type { Redis } from "ioredis";

import { systemClock } from "../../src/core/clock.js";
import type { Cache, CacheableStore, Store } from "../../src/core/ports.js";
import type { KeyRef } from "../../src/core/record.js";
import { postgresStore } from "../../src/stores/postgres.js";
import { redisCache } from "../../src/stores/redis.js";
import { createNearCache } from "../../src/stores/near-cache.js";
import { tiered } from "../../src/stores/tiered.js";
import {
  claimed,
  connectRedis,
  created,
  flushPrefix,
  listening,
  newPrefix,
  newRef,
  newRequest,
  openTier,
  settled,
  stopLooking,
  useMigratedDatabase,
  windows,
} from "./open-stores.js";

const database = useMigratedDatabase();

let prefix: string;
let redis: Redis;
let cache: Cache;
let postgres: CacheableStore;
/** Claims of new keys alone have taught it not to look. */
let store: Store;
/** Another process with the same Redis, which still looks. */
let other: Store;
const asked: string[] = [];
let looks: number;
/** Added to the clock of the store's tiers. */
let laterMs: number;
let isDown: boolean;
/** Resolves when the store answers again; undefined: it answers. */
let hanging: Promise<void> | undefined;

beforeEach(async () => {
  prefix = newPrefix();
  redis = await connectRedis();
  const inner = redisCache({ client: redis, prefix, budgetMs: 5_000 });
  cache = {
    ...inner,
    look: (...input) => {
      looks += 1;
      return inner.look(...input);
    },
  };
  postgres = postgresStore({ pool: database.pool });
  isDown = false;
  hanging = undefined;
  const failing: CacheableStore = {
    ...postgres,
    claim: async (request) => {
      if (isDown) throw new Error("the server has gone away");
      await hanging;
      return postgres.claim(request);
    },
  };
  laterMs = 0;
  const clock = { ...systemClock, monotonicMs: () => performance.now() + laterMs };
  store = tiered(listening(failing, asked), { cache, near: undefined, clock });
  other = openTier(database.pool, { client: redis, prefix });
  await Promise.all([store.find(newRef()), other.find(newRef())]);
  // What Redis has is true by the store's time, which comes with the first record that is read.
  await store.find(await completedElsewhere());
  await stopLooking(store);
  looks = 0;
  asked.length = 0;
});

afterEach(async () => {
  await Promise.all([store.close(), other.close(), postgres.close()]);
  await flushPrefix([redis], prefix);
  redis.disconnect();
});

async function completedElsewhere(): Promise<KeyRef> {
  const ref = newRef();
  const claim = await claimed(other.claim(newRequest(ref)));
  expect((await other.complete(claim, { response: created, ...windows })).kind).toBe("ok");
  await settled(redis);
  return ref;
}

test("first runs ask the store alone, and what they store is replayed by Redis elsewhere", async () => {
  const ref = newRef();
  const claim = await claimed(store.claim(newRequest(ref)));
  expect(asked).toEqual(["claim"]);
  expect((await store.complete(claim, { response: created, ...windows })).kind).toBe("ok");
  await settled(redis);
  const listened: string[] = [];
  const third = tiered(listening(postgres, listened), {
    cache,
    near: undefined,
    clock: systemClock,
  });
  await third.find(ref);
  expect(looks).toBe(0);
  expect(await third.claim(newRequest(ref))).toMatchObject({
    kind: "exists",
    record: { state: "completed", claimId: claim.claimId },
  });
  expect(listened).toEqual([]);
});

test("transaction routes do not look either", async () => {
  const answer = await store.transactions?.claim(newRequest(newRef()), { timeoutMs: 10_000 });
  expect(answer?.kind).toBe("claimed");
  if (answer?.kind === "claimed") await answer.open.rollback();
  expect([looks, asked]).toEqual([0, ["tx.claim"]]);
});

test("a key that runs is refused in both processes, whoever claimed it and whether it was looked at or not", async () => {
  const mine = newRequest(newRef());
  const theirs = newRequest(newRef());
  const claim = await claimed(store.claim(mine));
  await claimed(other.claim(theirs));
  expect(await other.claim(newRequest(mine))).toMatchObject({
    kind: "exists",
    record: { state: "running", claimId: claim.claimId },
  });
  expect(await store.claim(newRequest(theirs))).toMatchObject({
    kind: "exists",
    record: { state: "running", claimId: theirs.claimId },
  });
});

test("retries are answered by the store at first, and when they go on by Redis", async () => {
  const refs = await Promise.all(Array.from({ length: 12 }, completedElsewhere));
  for (const ref of refs) {
    expect(await store.claim(newRequest(ref))).toMatchObject({
      kind: "exists",
      record: { state: "completed", response: { status: created.status, body: created.body } },
    });
  }
  expect(asked.length).toBeLessThan(6);
  expect(looks).toBe(refs.length - asked.length);
});

test("while the store is away Redis answers what it can", async () => {
  const ref = await completedElsewhere();
  isDown = true;
  await expect(store.claim(newRequest(newRef()))).rejects.toThrow("gone away");
  expect(await store.claim(newRequest(ref))).toMatchObject({
    kind: "exists",
    record: { state: "completed" },
  });
  expect(asked).toEqual(["claim"]);
});

test("while the store hangs Redis answers what it can, and after it the store is asked again", async () => {
  const ref = await completedElsewhere();
  let answers: (() => void) | undefined;
  hanging = new Promise((resolve) => void (answers = resolve));
  const held = claimed(store.claim(newRequest(newRef())));
  laterMs += 501;
  expect(await store.claim(newRequest(ref))).toMatchObject({
    kind: "exists",
    record: { state: "completed" },
  });
  expect([looks, asked]).toEqual([1, ["claim"]]);
  answers?.();
  await held;
  await claimed(store.claim(newRequest(newRef())));
  expect([looks, asked]).toEqual([1, ["claim", "claim"]]);
});

test("a store that nobody has asked for long is not taken for one that hangs", async () => {
  laterMs += 60_000;
  await claimed(store.claim(newRequest(newRef())));
  laterMs += 60_000;
  const together = [newRef(), newRef()].map((ref) => claimed(store.claim(newRequest(ref))));
  await Promise.all(together);
  expect(looks).toBe(0);
});

test("a share of retries below an eighth does not bring the looks back", async () => {
  const refs = await Promise.all(Array.from({ length: 4 }, completedElsewhere));
  for (const ref of refs) {
    await store.claim(newRequest(ref));
    for (let first = 0; first < 15; first += 1) {
      const claim = await claimed(store.claim(newRequest(newRef())));
      await store.release(claim);
    }
  }
  expect(looks).toBe(0);
});

describe("what has just ended", () => {
  const inMemory = (with_: Cache | undefined): Store =>
    tiered(postgres, {
      cache: with_,
      near: createNearCache({ maxBytes: 1_000_000, maxAgeMs: 30_000, clock: systemClock }),
      clock: systemClock,
    });
  const plain = async (of: Store, ref: KeyRef): Promise<void> => {
    const claim = await claimed(of.claim(newRequest(ref)));
    expect((await of.complete(claim, { response: created, ...windows })).kind).toBe("ok");
  };
  const inTransaction = async (of: Store, ref: KeyRef): Promise<void> => {
    const request = newRequest(ref, { guarantee: "transaction" });
    const answer = await of.transactions?.claim(request, { timeoutMs: 10_000 });
    if (answer?.kind !== "claimed") throw new Error("claimed was expected");
    const completion = { response: created, ...windows };
    expect((await answer.open.complete(answer.claim, completion)).kind).toBe("committed");
  };

  test.each([
    ["plain routes", "Postgres alone", plain],
    ["transaction routes", "Postgres alone", inTransaction],
    ["plain routes", "Redis", plain],
    ["transaction routes", "Redis", inTransaction],
  ] as const)(
    "of %s with %s: this process remembers it while retries are many, and always once it was replayed",
    async (_routes, where, run) => {
      const own = inMemory(where === "Redis" ? cache : undefined);
      await own.find(newRef());
      const [early, late] = [newRef(), newRef()];
      await run(own, early);
      expect(own.peek?.(early)?.record.state).toBe("completed");
      await stopLooking(own);
      await run(own, late);
      expect(own.peek?.(late)).toBeUndefined();
      expect(await own.claim(newRequest(late))).toMatchObject({
        kind: "exists",
        record: { state: "completed", response: { status: created.status, body: created.body } },
      });
      expect(own.peek?.(late)?.record.state).toBe("completed");
    },
  );
});
