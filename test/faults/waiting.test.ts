/** Waiting across processes: who is woken, by what, and what is left when the way of the hints is lost. */
import { randomUUID } from "node:crypto";

import { Redis } from "ioredis";

import { migrate } from "../../src/stores/postgres.js";
import { useDatabase } from "../support/databases.js";
import { startRedis } from "../support/redis-server.js";
import type { RedisServer } from "../support/redis-server.js";
import { redisUrl } from "../support/servers.js";
import { waitFor } from "../support/wait-for.js";
import {
  begin,
  beginHeld,
  newKey,
  noPolling,
  openProcess,
  otherFingerprint,
  requestFor,
  told,
  untilItHasLooked,
  untilWatchedInPostgres,
  untilWatchedInRedis,
  watchingPids,
} from "./waiting-bench.js";
import type { Attempt, Kind, Process, ProcessOptions } from "./waiting-bench.js";

const database = useDatabase({ prepare: (pool) => migrate({ pool }) });
const body = '{"id":"ch_1"}';
const kinds: readonly Kind[] = ["plain", "transaction"];

const opened: Process[] = [];
async function open(given: Omit<ProcessOptions, "databaseUrl"> = {}): Promise<Process> {
  const process = await openProcess({ databaseUrl: database.url, ...given });
  opened.push(process);
  return process;
}
afterEach(async () => {
  await Promise.all(opened.splice(0).map((process) => process.close()));
});

async function openTransactions(): Promise<number> {
  const { rows } = await database.pool.query(
    `SELECT FROM pg_stat_activity
      WHERE datname = current_database() AND xact_start IS NOT NULL AND pid <> pg_backend_pid()`,
  );
  return rows.length;
}

describe.each(kinds)("a %s route's waiter in another process, without polling", (kind) => {
  test("is woken by Postgres at once", async () => {
    const [here, there] = [await open({ pauses: noPolling }), await open({ pauses: noPolling })];
    const key = newKey();
    const held = await beginHeld(here, kind, requestFor(key));
    const waiter = begin(there, kind, requestFor(key));
    await untilWatchedInPostgres(database.pool, 1);
    await untilItHasLooked(there);
    // It holds no connection: the one transaction that is open is that of the handler.
    await waitFor(async () => (await openTransactions()) === (kind === "plain" ? 0 : 1));
    await held.complete();
    expect(told(await waiter)).toBe(body);
    expect(there.engine.waiting()).toBe(0);
    // Nobody watches any more, and nothing is locked.
    await untilWatchedInPostgres(database.pool, 0);
  });

  test("is woken by Redis at once", async () => {
    const redis = { url: redisUrl(), prefix: `test-${randomUUID()}:` };
    const given = { pauses: noPolling, redis };
    const [here, there] = [await open(given), await open(given)];
    const client = new Redis(redis.url);
    const key = newKey();
    const held = await beginHeld(here, kind, requestFor(key));
    const waiter = begin(there, kind, requestFor(key));
    await untilWatchedInRedis(client, redis.prefix, 1);
    await untilItHasLooked(there);
    expect(await watchingPids(database.pool)).toEqual([]);
    await held.complete();
    expect(told(await waiter)).toBe(body);
    await untilWatchedInRedis(client, redis.prefix, 0);
    client.disconnect();
  });

  test.each(["Postgres", "Redis"])("claims when %s tells that it was given back", async (way) => {
    const prefix = `test-${randomUUID()}:`;
    const given = {
      pauses: noPolling,
      ...(way === "Redis" ? { redis: { url: redisUrl(), prefix } } : {}),
    };
    const [here, there] = [await open(given), await open(given)];
    const client = new Redis(redisUrl());
    const key = newKey();
    const held = await beginHeld(here, kind, requestFor(key));
    const waiter = begin(there, kind, requestFor(key));
    if (way === "Redis") await untilWatchedInRedis(client, prefix, 1);
    else await untilWatchedInPostgres(database.pool, 1);
    await untilItHasLooked(there);
    await held.release();
    const attempt = await waiter;
    expect(told(attempt)).toBe("run");
    await attempt.held?.complete();
    client.disconnect();
  });

  test("of 50 in two processes exactly one runs a released key, and the others replay it", async () => {
    const processes = [
      await open({ pauses: noPolling }),
      await open({ pauses: noPolling }),
      await open({ pauses: noPolling }),
    ] as const;
    const key = newKey();
    const held = await beginHeld(processes[0], kind, requestFor(key));
    let runs = 0;
    const run = async (attempt: Attempt): Promise<string> => {
      if (attempt.held === undefined) return told(attempt);
      runs += 1;
      await attempt.held.complete();
      return "run";
    };
    const waiters = Array.from({ length: 50 }, async (_, index) =>
      run(await begin(processes[1 + (index % 2)] as Process, kind, requestFor(key))),
    );
    await untilWatchedInPostgres(database.pool, 2);
    await Promise.all([untilItHasLooked(processes[1]), untilItHasLooked(processes[2])]);
    await held.release();
    const answers = await Promise.all(waiters);
    expect(runs).toBe(1);
    expect(answers.filter((answer) => answer === body)).toHaveLength(49);
  });
});

test("a request of another body is told 422 at once where the first claim is visible", async () => {
  const [here, there] = [await open({ pauses: noPolling }), await open({ pauses: noPolling })];
  const key = newKey();
  const held = await beginHeld(here, "plain", requestFor(key));
  const waiter = begin(there, "plain", requestFor(key));
  await untilWatchedInPostgres(database.pool, 1);
  const other = begin(there, "plain", requestFor(key, { fingerprint: otherFingerprint(2) }));
  expect(told(await other)).toBe("key_reused");
  expect(there.engine.waiting()).toBe(1);
  await held.complete();
  expect(told(await waiter)).toBe(body);
});

test("a waiter whose session was ended is told again once there is another one", async () => {
  const [here, there] = [await open({ pauses: noPolling }), await open({ pauses: noPolling })];
  const key = newKey();
  const held = await beginHeld(here, "plain", requestFor(key));
  const waiter = begin(there, "plain", requestFor(key));
  await untilWatchedInPostgres(database.pool, 1);
  const [pid] = await watchingPids(database.pool);
  await database.pool.query("SELECT pg_terminate_backend($1)", [pid]);
  await waitFor(async () => {
    const [now] = await watchingPids(database.pool);
    return now !== undefined && now !== pid;
  });
  await held.complete();
  expect(told(await waiter)).toBe(body);
});

describe("polling is what remains", () => {
  let redis: RedisServer;
  beforeAll(async () => {
    redis = await startRedis();
  });
  afterAll(async () => {
    await redis.end();
  });

  test("when the hint itself is lost with its session", async () => {
    const [here, there] = [await open(), await open()];
    const key = newKey();
    const held = await beginHeld(here, "transaction", requestFor(key));
    const waiter = begin(there, "transaction", requestFor(key));
    await untilWatchedInPostgres(database.pool, 1);
    await database.pool.query("SELECT pg_terminate_backend(pid) FROM unnest($1::int[]) AS pid", [
      await watchingPids(database.pool),
    ]);
    await held.complete();
    expect(told(await waiter)).toBe(body);
  });

  test.each(["flushed", "killed"])("when Redis is %s while somebody waits", async (how) => {
    const given = { redis: { url: redis.url, prefix: "" } };
    const [here, there] = [await open(given), await open(given)];
    const client = new Redis(redis.url, { maxRetriesPerRequest: 0 });
    client.on("error", () => {});
    const key = newKey();
    const held = await beginHeld(here, "plain", requestFor(key));
    const waiter = begin(there, "plain", requestFor(key));
    await untilWatchedInRedis(client, "", 1);
    if (how === "flushed") await client.flushall();
    else await redis.kill();
    await held.complete();
    expect(told(await waiter)).toBe(body);
    client.disconnect();
  });
});

test("a thousand waiters cost the store what one does", async () => {
  const [here, there] = [await open(), await open()];
  const key = newKey();
  const held = await beginHeld(here, "plain", requestFor(key));
  const waiters = Array.from({ length: 1_000 }, () => begin(there, "plain", requestFor(key)));
  await waitFor(() => there.engine.waiting() === 1_000);
  await untilWatchedInPostgres(database.pool, 1);
  // Other keys go on meanwhile.
  for (let run = 0; run < 50; run += 1)
    await (await beginHeld(there, "plain", requestFor(newKey()))).complete();
  await held.complete();
  const answers = await Promise.all(waiters);
  expect(answers.every((answer) => told(answer) === body)).toBe(true);
  // 50 of other keys; the first look, the one when the watch stood, a few by the safety net, and the last one.
  expect(there.looks()).toBeGreaterThan(50);
  expect(there.looks()).toBeLessThan(75);
});

test("waiters whose clients hang up are gone at once, and their key is watched no more", async () => {
  const [here, there] = [await open({ pauses: noPolling }), await open({ pauses: noPolling })];
  const key = newKey();
  const held = await beginHeld(here, "plain", requestFor(key));
  const clients = Array.from({ length: 20 }, () => new AbortController());
  const waiters = clients.map(({ signal }) => begin(there, "plain", requestFor(key, { signal })));
  await untilWatchedInPostgres(database.pool, 1);
  expect(there.engine.waiting()).toBe(20);
  for (const client of clients) client.abort();
  expect((await Promise.all(waiters)).map(told)).toEqual(Array(20).fill("in_progress"));
  expect(there.engine.waiting()).toBe(0);
  await untilWatchedInPostgres(database.pool, 0);
  await held.release();
});

test("a shutdown tells waiters at once", async () => {
  const [here, there] = [await open({ pauses: noPolling }), await open({ pauses: noPolling })];
  const key = newKey();
  const held = await beginHeld(here, "plain", requestFor(key));
  const waiter = begin(there, "plain", requestFor(key));
  await untilWatchedInPostgres(database.pool, 1);
  await there.close();
  opened.splice(opened.indexOf(there), 1);
  expect(told(await waiter)).toBe("in_progress");
  await held.release();
});

test("time that is up is a 409", async () => {
  const [here, there] = [await open({ pauses: noPolling }), await open({ pauses: noPolling })];
  const key = newKey();
  const held = await beginHeld(here, "transaction", requestFor(key));
  const attempt = await begin(there, "transaction", requestFor(key, { waitMs: 50 }));
  expect(told(attempt)).toBe("in_progress");
  await held.release();
});
