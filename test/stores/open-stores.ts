/** Stores as tests open them: on a database whose clock can be moved, with a Redis prefix of their own. */
import { randomUUID } from "node:crypto";

import { Redis } from "ioredis";
import type pg from "pg";

import { systemClock } from "../../src/core/clock.js";
import type { CacheableStore, ClaimAnswer, Store } from "../../src/core/ports.js";
import type {
  Claim,
  ClaimRequest,
  KeyRecord,
  KeyRef,
  StoredFingerprint,
  StoredResponse,
  Windows,
} from "../../src/core/record.js";
import { migrate, postgresStore } from "../../src/stores/postgres.js";
import { type RedisCacheOptions, redisCache } from "../../src/stores/redis.js";
import { tiered } from "../../src/stores/tiered.js";
import type { StoreUnderTest } from "../../src/testing.js";
import { useDatabase } from "../support/databases.js";
import { redisUrl } from "../support/servers.js";
import { waitFor } from "../support/wait-for.js";

export const leaseMs = 60_000;
export const windows: Windows = { replayWindowMs: 3_600_000, dedupeWindowMs: 86_400_000 };
export const created: StoredResponse = {
  status: 201,
  headers: [["Content-Type", "application/json"]],
  body: Buffer.from('{"id":"ch_1"}'),
};

export function useMigratedDatabase(): ReturnType<typeof useDatabase> {
  return useDatabase({ prepare: (pool) => migrate({ pool }) });
}

export function newRef(): KeyRef {
  return { scope: `acct_${randomUUID()}`, key: "order-1" };
}

export function newRequest(ref: KeyRef, given: Partial<ClaimRequest> = {}): ClaimRequest {
  return {
    ...ref,
    claimId: randomUUID(),
    guarantee: "at_most_once",
    fingerprint: newFingerprint("v1::one"),
    method: "POST",
    path: "/charges",
    requestId: "req_1",
    leaseMs,
    ...given,
  };
}

export function newFingerprint(text: string): StoredFingerprint {
  return { text, fieldHashes: '{"body.amount":"aa"}' };
}

const aheadMs = new WeakMap<pg.Pool, number>();

/** Moves the clock of the database's stores on; it never goes back, like the real one. */
export async function advanceClock(pool: pg.Pool, ms: number): Promise<void> {
  const ahead = (aheadMs.get(pool) ?? 0) + ms;
  aheadMs.set(pool, ahead);
  await pool.query(
    `CREATE OR REPLACE FUNCTION idempotency_now() RETURNS timestamptz LANGUAGE sql VOLATILE
       AS $$ SELECT clock_timestamp() + ${ahead} * interval '1 millisecond' $$`,
  );
}

export function newPrefix(): string {
  return `test-${randomUUID()}:`;
}

export async function connectRedis(url = redisUrl()): Promise<Redis> {
  const client = new Redis(url, { lazyConnect: true });
  // Servers are stopped on purpose; without a listener each lost connection would be printed.
  client.on("error", () => {});
  await client.connect();
  return client;
}

/**
 * Resolves when all that was sent on this connection has been done, also what nobody waits for. The first use of a script
 * takes two trips, so one is not enough.
 */
export async function settled(client: Redis): Promise<void> {
  for (let trip = 0; trip < 3; trip += 1) await client.ping();
}

/** Removes every key of a prefix, after all that `clients` have sent before. */
export async function flushPrefix(clients: readonly Redis[], prefix: string): Promise<void> {
  await Promise.all(clients.map((client) => settled(client)));
  const keys = (await clients[0]?.keys(`${prefix}*`)) ?? [];
  if (keys.length > 0) await clients[0]?.del(...keys);
}

export function openPostgres(pool: pg.Pool): StoreUnderTest {
  const [store, second] = [postgresStore({ pool }), postgresStore({ pool })];
  return {
    store,
    second,
    advance: (ms) => advanceClock(pool, ms),
    close: async () => {
      await Promise.all([store.close(), second.close()]);
    },
  };
}

/** Two processes' worth of Postgres with Redis in front, on one prefix. */
export const openTiered = (pool: pg.Pool): Promise<StoreUnderTest> => openTiers(pool, () => {});

/** The same when most keys are new, so that Redis is told of responses and not looked at before Postgres. */
export const openUnlooked = (pool: pg.Pool): Promise<StoreUnderTest> =>
  openTiers(pool, stopLooking);

async function openTiers(
  pool: pg.Pool,
  prepare: (store: Store) => Promise<void> | void,
): Promise<StoreUnderTest> {
  const prefix = newPrefix();
  const clients = [await connectRedis(), await connectRedis()] as const;
  const [store, second] = clients.map((client) => openTier(pool, { client, prefix })) as [
    StoreUnderTest["store"],
    StoreUnderTest["store"],
  ];
  // The epoch is read with the first connection, and without it Redis is not asked.
  await Promise.all([store.find(newRef()), second.find(newRef())]);
  await Promise.all([prepare(store), prepare(second)]);
  return {
    store,
    second,
    advance: async (ms) => {
      await advanceClock(pool, ms);
      // The time of Redis cannot be moved, so what it holds would look as fresh as before.
      await flushPrefix(clients, prefix);
    },
    close: async () => {
      await Promise.all([store.close(), second.close()]);
      await flushPrefix(clients, prefix);
      for (const client of clients) client.disconnect();
    },
  };
}

export function openTier(pool: pg.Pool, options: RedisCacheOptions): StoreUnderTest["store"] {
  // Machines that run tests are busy: time is no subject here, and a time-out would hide what is.
  const cache = redisCache({ budgetMs: 5_000, ...options });
  return tiered(postgresStore({ pool }), { cache, near: undefined, clock: systemClock });
}

/** Lets a store behind Redis claim new keys until it looks at Redis no more, and gives them back. */
export async function stopLooking(store: Store): Promise<void> {
  const claims = Array.from({ length: 100 }, () => claimed(store.claim(newRequest(newRef()))));
  await Promise.all(claims.map(async (claim) => store.release(await claim)));
}

export async function claimed(answer: Promise<ClaimAnswer>): Promise<Claim> {
  const got = await answer;
  if (got.kind !== "claimed") throw new Error(`claimed was expected, ${got.kind} came`);
  return got.claim;
}

/** Runs work while another session holds what `lock` takes, and ends that session's transaction after it. */
export async function whileLocked<T>(
  pool: pg.Pool,
  lock: string,
  values: unknown[],
  work: () => Promise<T>,
): Promise<T> {
  const client = await pool.connect();
  try {
    await client.query("BEGIN");
    await client.query(lock, values);
    return await work();
  } finally {
    await client.query("ROLLBACK");
    client.release();
  }
}

/** Resolves once Postgres shows a session of this database that waits. */
export async function untilSomebodyWaits(pool: pg.Pool, locktype: string): Promise<void> {
  await waitFor(
    async () => {
      const { rows } = await pool.query(
        `SELECT FROM pg_locks l JOIN pg_stat_activity a USING (pid)
          WHERE NOT l.granted AND l.locktype = $1 AND a.datname = current_database()`,
        [locktype],
      );
      return rows.length > 0;
    },
    { what: `a session to wait for a ${locktype} lock` },
  );
}

/** Notes which verbs reach the store. */
export function listening(inner: CacheableStore, asked: string[]): CacheableStore {
  const note =
    <Input extends readonly unknown[], Output>(verb: string, call: (...input: Input) => Output) =>
    (...input: Input): Output => {
      asked.push(verb);
      return call(...input);
    };
  const { transactions } = inner;
  return {
    ...inner,
    claim: note("claim", (request: ClaimRequest) => inner.claim(request)),
    takeOver: note("takeOver", (request: ClaimRequest, observed: KeyRecord) =>
      inner.takeOver(request, observed),
    ),
    ...(transactions && {
      transactions: {
        ...transactions,
        claim: note("tx.claim", (request: ClaimRequest, given: { readonly timeoutMs: number }) =>
          transactions.claim(request, given),
        ),
      },
    }),
  };
}
