import * as fc from "fast-check";
import { Cluster, Redis } from "ioredis";

import type { KeyRef } from "../../src/core/record.js";
import { redisCache } from "../../src/stores/redis.js";
import { entryName, packCompleted, unpackCompleted } from "../../src/stores/redis-entry.js";
import { startRedis } from "../support/redis-server.js";
import { waitFor } from "../support/wait-for.js";
import { asker, epoch, newEntry, nothing, patientMs } from "./cache-entries.js";
import { connectRedis, newPrefix, newRef } from "./open-stores.js";

describe("on a Redis that works", () => {
  const prefix = newPrefix();
  const time = { nowMs: 0 };
  const errors: Error[] = [];
  let client: Redis;
  let other: Redis;
  let cache: ReturnType<typeof redisCache>;
  let ref: KeyRef;
  let name: string;

  beforeAll(async () => {
    client = await connectRedis();
    other = await connectRedis();
    const onError = (error: Error) => void errors.push(error);
    const clock = { monotonicMs: () => time.nowMs };
    cache = redisCache({ client, prefix, clock, onError, budgetMs: patientMs });
  });
  beforeEach(() => {
    time.nowMs = 0;
    errors.length = 0;
    ref = newRef();
    name = entryName(prefix, ref);
  });
  afterAll(() => {
    client.disconnect();
    other.disconnect();
  });

  test("a marker is seen by equal requests of other claimers alone", async () => {
    const [first, second] = [asker(), asker()];
    expect(await cache.look(ref, first, epoch)).toEqual(nothing);
    const leftMs = await client.pttl(name);
    expect(leftMs).toBeGreaterThan(0);
    expect(leftMs).toBeLessThanOrEqual(2_000);
    const elsewhere = redisCache({ client: other, prefix, budgetMs: patientMs });
    expect(await elsewhere.look(ref, second, epoch)).toEqual({ kind: "running" });
    expect(await cache.look(ref, first, epoch)).toEqual(nothing);
    expect(await cache.look(ref, asker("v1::other"), epoch)).toEqual(nothing);
    expect(await cache.look(ref, asker("v1::on"), epoch)).toEqual(nothing);
    expect(await client.get(name)).toBe(`v1 running ${first.claimId} v1::one`);
  });

  test("looks of one turn share a call, and each has its own answer", async () => {
    const refs = Array.from({ length: 70 }, () => newRef());
    const [stored, held] = [refs[1] as KeyRef, refs[2] as KeyRef];
    await cache.keep(newEntry(stored));
    await cache.look(held, asker(), epoch);
    const answers = await Promise.all(refs.map((each) => cache.look(each, asker(), epoch)));
    expect(answers.map(({ kind }) => kind)).toEqual(
      refs.map((each) => (each === stored ? "completed" : each === held ? "running" : "absent")),
    );
    expect(answers[1]).toMatchObject({ record: { key: stored.key } });
  });

  test("entries of one turn are kept together, and a large one too", async () => {
    const entries = [newEntry(newRef()), newEntry(newRef()), newEntry(newRef())];
    const { record } = newEntry(newRef());
    const response = { ...record.response, body: Buffer.alloc(100_000, "x") };
    const all = [...entries, { ...newEntry(record), record: { ...record, response } }];
    await Promise.all(all.map((entry) => cache.keep(entry)));
    const found = await Promise.all(all.map((entry) => cache.look(entry.record, asker(), epoch)));
    expect(found.map((answer) => answer.kind === "completed" && answer.record.key)).toEqual(
      all.map((entry) => entry.record.key),
    );
  });

  test("only its claimer takes a marker away", async () => {
    const [first, second] = [asker(), asker()];
    await cache.look(ref, first, epoch);
    await cache.unmark(ref, second.claimId);
    await cache.unmark(ref, first.claimId.slice(0, -1));
    expect(await client.exists(name)).toBe(1);
    await cache.unmark(ref, first.claimId);
    expect(await client.exists(name)).toBe(0);
    await cache.keep(newEntry(ref));
    await cache.unmark(ref, first.claimId);
    expect((await cache.look(ref, second, epoch)).kind).toBe("completed");
  });

  test("renewing extends the marker, and sets it again where nothing is there", async () => {
    const first = asker();
    await cache.look(ref, first, epoch);
    await client.pexpire(name, 100);
    await cache.renew([{ ...ref, ...first }]);
    expect(await client.pttl(name)).toBeGreaterThan(100);
    await client.del(name);
    await cache.renew([{ ...ref, ...first }]);
    expect(await cache.look(ref, asker(), epoch)).toEqual({ kind: "running" });
    await cache.renew([]);
  });

  test("renewing touches nothing of anybody else", async () => {
    const first = asker();
    await cache.look(ref, first, epoch);
    await client.pexpire(name, 1_000);
    await cache.renew([{ ...ref, ...asker() }]);
    await cache.renew([{ ...ref, claimId: first.claimId, fingerprint: "v1::on" }]);
    expect(await client.get(name)).toBe(`v1 running ${first.claimId} v1::one`);
    expect(await client.pttl(name)).toBeLessThanOrEqual(1_000);
    await cache.keep(newEntry(ref));
    await cache.renew([{ ...ref, ...first }]);
    expect((await cache.look(ref, first, epoch)).kind).toBe("completed");
  });

  test("a completed record takes the place of a marker and comes back whole", async () => {
    const body = Buffer.from(Array.from({ length: 7_000 }, (_, index) => (index * 7) % 256));
    const entry = newEntry(ref, { body });
    await cache.look(ref, asker(), epoch);
    await cache.keep(entry);
    for (const each of [cache, redisCache({ client: other, prefix, budgetMs: patientMs })]) {
      const answer = await each.look(ref, asker("v1::other"), epoch);
      expect(answer).toEqual({
        kind: "completed",
        record: entry.record,
        nowMs: expect.any(Number),
      });
    }
  });

  test("lives for what is left of the replay window when it is sent", async () => {
    time.nowMs = 30_000;
    await cache.keep(newEntry(ref, { readAtMs: 10_000, replayLeftMs: 100_000 }));
    const leftMs = await client.pttl(name);
    expect(leftMs).toBeLessThanOrEqual(80_000);
    expect(leftMs).toBeGreaterThan(70_000);
    const answer = await cache.look(ref, asker(), epoch);
    const judgedMs = answer.kind === "completed" ? 1_700_000_100_000 - answer.nowMs : 0;
    expect(judgedMs).toBeLessThanOrEqual(leftMs);
    expect(judgedMs).toBeGreaterThan(70_000);
  });

  test("is not kept without time left, nor when it was read long ago", async () => {
    time.nowMs = 100_000;
    await cache.keep(newEntry(ref));
    expect(await client.exists(name)).toBe(0);
    time.nowMs = 1_800_001;
    await cache.keep(newEntry(ref, { replayLeftMs: 86_400_000 }));
    expect(await client.exists(name)).toBe(0);
  });

  test("an entry of another epoch is a miss, and is written over", async () => {
    await cache.keep(newEntry(ref));
    for (const another of ["5e1c.7.2", "5e1c.7", "5e1c.7.1{"]) {
      expect(await cache.look(ref, asker(), another)).toEqual(nothing);
    }
    await cache.keep(newEntry(ref, { epoch: "5e1c.7.2" }));
    expect(await cache.look(ref, asker(), epoch)).toEqual(nothing);
    expect((await cache.look(ref, asker(), "5e1c.7.2")).kind).toBe("completed");
  });

  test("a forgotten key refuses what was under way, for an hour", async () => {
    const first = asker();
    await cache.keep(newEntry(ref));
    await cache.forget(ref);
    await cache.keep(newEntry(ref));
    await cache.renew([{ ...ref, ...first }]);
    expect(await cache.look(ref, first, epoch)).toEqual(nothing);
    expect(await client.get(name)).toBe("v1 forgotten");
    const leftMs = await client.pttl(name);
    expect(leftMs).toBeGreaterThan(3_500_000);
    expect(leftMs).toBeLessThanOrEqual(3_600_000);
  });

  test("an entry that lost its time limit, or is not whole, is a miss", async () => {
    await cache.keep(newEntry(ref));
    await client.persist(name);
    expect(await cache.look(ref, asker(), epoch)).toEqual(nothing);
    for (const value of ["", "{", "{}"]) {
      await client.set(name, `v1 completed 8:${epoch}${value}`, "PX", 10_000);
      expect(await cache.look(ref, asker(), epoch)).toEqual(nothing);
    }
    expect(errors.length).toBe(3);
  });

  test("keys are told apart by scope and key together", async () => {
    const names = [
      entryName(prefix, { scope: "a", key: "bc" }),
      entryName(prefix, { scope: "ab", key: "c" }),
      entryName(prefix, { scope: "a", key: "b:c" }),
      entryName(prefix, { scope: "a:b", key: "c" }),
    ];
    expect(new Set(names).size).toBe(4);
    expect(names[0]).toBe(`${prefix}v1:{1:abc}`);
  });

  test("what Redis answers for any other error is not asked again", async () => {
    await client.hset(name, "a", "b");
    expect(await cache.look(ref, asker(), epoch)).toEqual(nothing);
    expect(errors.map((error) => error.message)).toEqual([expect.stringContaining("WRONGTYPE")]);
    await expect(cache.forget(ref)).resolves.toBeUndefined();
    expect(cache.state()).toBe("closed");
  });

  test("a log that throws takes nothing with it", async () => {
    const onError = () => {
      throw new Error("the log is full");
    };
    const loud = redisCache({ client, prefix, onError, budgetMs: patientMs });
    await client.hset(name, "a", "b");
    expect(await loud.look(ref, asker(), epoch)).toEqual(nothing);
  });

  test("closing leaves the client to its owner", async () => {
    await redisCache({ client, prefix }).close();
    expect(await client.ping()).toBe("PONG");
  });

  test("works under a key prefix of the client, and with automatic pipelining", async () => {
    const settings = { keyPrefix: `${prefix}own:`, enableAutoPipelining: true };
    const own = other.duplicate(settings);
    own.on("error", () => {});
    const piped = redisCache({ client: own, prefix, budgetMs: patientMs });
    await own.connect();
    // By the real clock: read at 0, an entry of 100 s is over in a process that has run longer.
    await piped.keep(newEntry(ref, { readAtMs: performance.now() }));
    expect((await piped.look(ref, asker(), epoch)).kind).toBe("completed");
    expect(await client.exists(`${prefix}own:${name}`)).toBe(1);
    own.disconnect();
  });
});

test("works on a Redis Cluster", async () => {
  const server = await startRedis({
    settings: { "cluster-enabled": "yes", "cluster-announce-ip": "127.0.0.1" },
  });
  const node = await connectRedis(server.url);
  await node.cluster("ADDSLOTS", ...Array.from({ length: 16_384 }, (_, slot) => slot));
  await waitFor(async () => (await node.cluster("INFO")).includes("cluster_state:ok"));
  const client = new Cluster([{ host: "127.0.0.1", port: server.port }]);
  client.on("error", () => {});
  const cache = redisCache({ client, budgetMs: patientMs });
  await waitFor(() => cache.state() === "closed");
  const refs = Array.from({ length: 20 }, () => newRef());
  const askers = refs.map(() => asker());
  await Promise.all(refs.map((ref, index) => cache.look(ref, askers[index] ?? asker(), epoch)));
  await cache.renew(refs.map((ref, index) => ({ ...ref, ...(askers[index] ?? asker()) })));
  for (const ref of refs)
    expect(await cache.look(ref, asker(), epoch)).toEqual({ kind: "running" });
  const readAtMs = performance.now();
  await Promise.all(refs.map((ref) => cache.keep(newEntry(ref, { readAtMs }))));
  for (const ref of refs) expect((await cache.look(ref, asker(), epoch)).kind).toBe("completed");
  await cache.forget(refs[0] as KeyRef);
  expect(await cache.look(refs[0] as KeyRef, asker(), epoch)).toEqual(nothing);
  client.disconnect();
  node.disconnect();
  await server.end();
});

test("whatever is packed is unpacked", () => {
  const text = fc.string({ unit: "grapheme" });
  fc.assert(
    fc.property(
      fc.record({ epoch: text, scope: text, path: text, name: text, value: fc.array(text) }),
      fc.uint8Array({ maxLength: 200 }),
      (given, bytes) => {
        const ref = { scope: given.scope, key: "k" };
        const { record, ...rest } = newEntry(ref, { epoch: given.epoch });
        const response = { status: 200, headers: [[given.name, given.value]] as const };
        const body = Buffer.from(bytes);
        const entry = {
          ...rest,
          record: { ...record, path: given.path, response: { ...response, body } },
        };
        const packed = packCompleted(entry) as Buffer;
        expect(unpackCompleted(ref, given.epoch, packed, 1_000)).toEqual({
          record: entry.record,
          nowMs: 1_700_000_099_000,
        });
      },
    ),
    { seed: 20_240_502, numRuns: 200 },
  );
});
