/** What one stored key weighs, in Postgres and in Redis, by the size of its response. */
import { randomUUID } from "node:crypto";
import { Redis } from "ioredis";
import type pg from "pg";

import { systemClock } from "../../src/core/clock.js";
import { redisCache } from "../../src/stores/redis.js";
import { tiered } from "../../src/stores/tiered.js";
import { fill, weigh, type Weight } from "./fill.js";
import { drop, openTable } from "./suites.js";

export interface BytesRow {
  readonly bodyBytes: number;
  readonly compression: "pglz" | "lz4";
  readonly postgres: Weight;
  /** Microseconds of the server for an inserted row. */
  readonly insertMicroseconds: number;
  /** The same keys after their responses are gone. */
  readonly forgotten: Weight;
  /** MEMORY USAGE of the cached entry. */
  readonly redis: number;
}

const rows = 20_000;
const sizes = [300, 2_000, 20_000] as const;

export async function bytesPerKey(
  pool: pg.Pool,
  redisUrl: string,
): Promise<{ readonly sizes: readonly BytesRow[]; readonly redisMarker: number }> {
  const found: BytesRow[] = [];
  const client = new Redis(redisUrl);
  let redisMarker = 0;
  for (const bodyBytes of sizes)
    for (const compression of ["pglz", "lz4"] as const) {
      const table = await openTable(pool, "bytes");
      await pool.query(
        `ALTER TABLE bytes.idempotency_keys ALTER COLUMN body SET COMPRESSION ${compression}`,
      );
      const startedMs = performance.now();
      await fill(pool, table.schema, { rows, keys: "random", bodyBytes });
      const insertMicroseconds = ((performance.now() - startedMs) * 1_000) / rows;
      const postgres = await weigh(pool, table.schema);
      const body = await oneBody(pool);
      await pool.query(
        `UPDATE bytes.idempotency_keys SET state = 'forgotten', status = NULL, head = NULL, body = NULL, reap_at = dedupe_until`,
      );
      await pool.query("VACUUM FULL bytes.idempotency_keys");
      const forgotten = await weigh(pool, table.schema);
      const cached = await inRedis(client, table.store, body);
      redisMarker = cached.marker;
      found.push({
        bodyBytes,
        compression,
        postgres,
        insertMicroseconds,
        forgotten,
        redis: cached.completed,
      });
      await drop(pool, table);
    }
  client.disconnect();
  return { sizes: found, redisMarker };
}

async function oneBody(pool: pg.Pool): Promise<Buffer> {
  const { rows: found } = await pool.query<{ body: Buffer }>(
    "SELECT body FROM bytes.idempotency_keys LIMIT 1",
  );
  return found[0]?.body ?? Buffer.alloc(0);
}

/** Lets the store claim and complete a key, and looks at what lies in Redis between and after. */
async function inRedis(
  client: Redis,
  durable: Parameters<typeof tiered>[0],
  body: Buffer,
): Promise<{ marker: number; completed: number }> {
  const store = tiered(durable, {
    cache: redisCache({ client, budgetMs: 5_000 }),
    near: undefined,
    clock: systemClock,
  });
  const usage = async (): Promise<number> => {
    for (;;) {
      const [name] = await client.keys("*");
      if (name !== undefined) return Number(await client.call("MEMORY", "USAGE", name));
    }
  };
  await client.flushall();
  // The epoch is read with the first connection, and without it Redis is not asked.
  await durable.find({ scope: "acct_1", key: "none" });
  const answer = await store.claim({
    scope: "acct_1",
    key: randomUUID(),
    claimId: randomUUID(),
    guarantee: "at_most_once",
    fingerprint: {
      text: `v1::${"x".repeat(43)}`,
      fieldHashes: '{"method":"3f9a02c1","path":"11ab90de","body.amount":"9a0c41f2"}',
    },
    method: "POST",
    path: "/v1/charges",
    requestId: `req_${"x".repeat(24)}`,
    leaseMs: 30_000,
  });
  if (answer.kind !== "claimed") throw new Error(`a new key was ${answer.kind}`);
  const marker = await usage();
  const headers = [["Content-Type", "application/json; charset=utf-8"]] as const;
  await store.complete(answer.claim, {
    response: { status: 201, headers, body },
    replayWindowMs: 86_400_000,
    dedupeWindowMs: 30 * 86_400_000,
  });
  let completed = await usage();
  while (completed < body.length) completed = await usage();
  await client.flushall();
  return { marker, completed };
}
