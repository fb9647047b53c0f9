import { randomUUID } from "node:crypto";

import { Redis } from "ioredis";

import { redisCache, type RedisCacheOptions } from "../../src/stores/redis.js";
import { startRedis, type RedisServer } from "../support/redis-server.js";
import { waitFor } from "../support/wait-for.js";
import { asker, epoch, newEntry, nothing, patientMs } from "./cache-entries.js";
import { connectRedis, newRef } from "./open-stores.js";

const time = { nowMs: 0 };
const errors: Error[] = [];
let server: RedisServer;
let client: Redis;
let cache: ReturnType<typeof redisCache>;
const ref = newRef();

const open = (given: Partial<RedisCacheOptions> = {}) =>
  redisCache({
    client,
    clock: { monotonicMs: () => time.nowMs },
    onError: (error) => void errors.push(error),
    ...given,
  });
const probe = async (): Promise<void> => {
  time.nowMs += 1_000;
  expect(await cache.look(ref, asker(), epoch)).toEqual(nothing);
};

beforeEach(async () => {
  errors.length = 0;
  server = await startRedis();
  client = await connectRedis(server.url);
  cache = open();
});
afterEach(async () => {
  client.disconnect();
  await server.end();
});

test("scripts that Redis has lost are sent once and known again", async () => {
  const patient = open({ budgetMs: patientMs });
  await patient.keep(newEntry(ref));
  await client.script("FLUSH");
  expect((await patient.look(ref, asker(), epoch)).kind).toBe("completed");
  expect((await patient.look(ref, asker(), epoch)).kind).toBe("completed");
  const stats = await client.info("commandstats");
  // One for keep, one for look; everything else went by its hash.
  expect(/cmdstat_eval:calls=(\d+)/.exec(stats)?.[1]).toBe("2");
  expect(errors).toEqual([]);
});

test("a flush is a miss, and markers are set again by renewing", async () => {
  const patient = open({ budgetMs: patientMs });
  const first = asker();
  await patient.keep(newEntry(ref));
  await client.flushall();
  expect(await patient.look(ref, first, epoch)).toEqual(nothing);
  await client.flushall();
  await patient.renew([{ ...ref, ...first }]);
  expect(await patient.look(ref, asker(), epoch)).toEqual({ kind: "running" });
});

test("a hung Redis costs a few budgets in all, and is used again when it is back", async () => {
  const unhandled: unknown[] = [];
  const listen = (reason: unknown) => void unhandled.push(reason);
  process.on("unhandledRejection", listen);
  await open({ budgetMs: patientMs }).keep(newEntry(ref));
  server.freeze();
  const startedMs = performance.now();
  for (let count = 0; count < 200; count += 1) {
    expect(await cache.look(ref, asker(), epoch)).toEqual(nothing);
  }
  const tookMs = performance.now() - startedMs;
  expect(cache.state()).toBe("open");
  expect(errors.length).toBe(5);
  // Five budgets of 50 ms; the rest is room for a busy machine.
  expect(tookMs).toBeGreaterThanOrEqual(5 * 49);
  expect(tookMs).toBeLessThan(2_500);

  // Nobody waits for the probe, and it fails as long as Redis hangs.
  await probe();
  await waitFor(() => cache.state() === "open");
  expect(errors.length).toBe(6);

  server.thaw();
  await waitFor(async () => {
    await probe();
    await waitFor(() => cache.state() !== "half_open");
    return cache.state() === "closed";
  });
  expect((await open({ budgetMs: patientMs }).look(ref, asker(), epoch)).kind).toBe("completed");
  // Replies that came after their time were ignored.
  process.removeListener("unhandledRejection", listen);
  expect(unhandled).toEqual([]);
});

test("many requests in flight when Redis hangs wait one budget each", async () => {
  server.freeze();
  const startedMs = performance.now();
  await Promise.all(Array.from({ length: 500 }, () => cache.look(newRef(), asker(), epoch)));
  expect(performance.now() - startedMs).toBeLessThan(2_000);
  expect(cache.state()).toBe("open");
  server.thaw();
});

test("nothing is sent while there is no connection", async () => {
  await server.stop();
  await waitFor(() => cache.state() === "offline");
  expect(await cache.look(ref, asker(), epoch)).toEqual(nothing);
  await cache.keep(newEntry(ref));
  await cache.unmark(ref, randomUUID());
  await cache.renew([{ ...ref, ...asker() }]);
  await expect(cache.forget(ref)).rejects.toThrow("Redis is not connected");
  expect(errors).toEqual([]);
  await server.restart();
  await waitFor(() => cache.state() === "closed");
  expect(await open({ budgetMs: patientMs }).look(ref, asker(), epoch)).toEqual(nothing);
  expect(await client.dbsize()).toBe(1);
});

test("forgetting says so when Redis did not", async () => {
  server.freeze();
  await expect(cache.forget(ref)).rejects.toThrow("no answer from Redis within 1000 ms");
  server.thaw();
});

test("a busy process is not taken for a slow Redis", async () => {
  await open({ budgetMs: patientMs }).look(ref, asker(), epoch);
  const looked = cache.look(ref, asker(), epoch);
  const startedMs = performance.now();
  while (performance.now() - startedMs < 150);
  await looked;
  expect(errors).toEqual([]);
  expect(await client.dbsize()).toBe(1);
});

test("a client that waits for its first command is connected", async () => {
  const lazy = new Redis(server.url, { lazyConnect: true });
  lazy.on("error", () => {});
  const patient = open({ client: lazy, budgetMs: patientMs });
  expect(patient.state()).toBe("offline");
  expect(await patient.look(ref, asker(), epoch)).toEqual(nothing);
  await waitFor(() => patient.state() === "closed");
  lazy.disconnect();
});
