/** Redis that loses everything, stops, hangs and comes back. DESIGN, section 2: it may cost speed and never correctness. */
import { Redis } from "ioredis";

import { type RedisServer, startRedis } from "../support/redis-server.js";
import { waitFor } from "../support/wait-for.js";
import { useBench } from "./bench.js";
import { newKey, post } from "./client.js";
import { complaints, startTraffic } from "./traffic.js";

let redis: RedisServer;
beforeAll(async () => {
  redis = await startRedis();
});
const bench = useBench();

const routes = [
  { path: "/v1/charges", body: { amount: 2000, currency: "eur", source: "tok_visa" } },
  { path: "/v1/charges", body: { amount: 2000, currency: "eur", source: "tok_slow_30" } },
  {
    path: "/v1/orders",
    body: { currency: "eur", items: [{ sku: "mug", quantity: 1, unit_amount: 900 }] },
  },
];

async function effects(): Promise<Map<string, number>> {
  const { rows } = await bench.pool.query<{ key: string; count: number }>(
    `SELECT idempotency_key AS key, count(*)::int AS count
       FROM (SELECT idempotency_key FROM charges UNION ALL SELECT idempotency_key FROM orders) made
      GROUP BY idempotency_key`,
  );
  return new Map(rows.map(({ key, count }) => [key, count]));
}

async function isUsed(client: Redis): Promise<boolean> {
  return (await client.dbsize()) > 0;
}

test("traffic goes on through FLUSHALL, a stop, a restart and a hang; every key happens once", async () => {
  const servers = [
    await bench.server({ REDIS_URL: redis.url }),
    await bench.server({ REDIS_URL: redis.url }),
  ];
  const client = new Redis(redis.url, { maxRetriesPerRequest: 0 });
  client.on("error", () => undefined);
  try {
    const traffic = startTraffic({ clients: 6, routes, urls: () => servers.map(({ url }) => url) });
    await traffic.progress(20);
    await waitFor(() => isUsed(client));
    for (let time = 0; time < 3; time += 1) {
      await client.flushall();
      await traffic.progress(10);
    }
    await redis.stop();
    await traffic.progress(30);
    await redis.restart();
    await waitFor(() => isUsed(client));
    await traffic.progress(20);
    redis.freeze();
    await traffic.progress(30);
    redis.thaw();
    await traffic.progress(20);
    await redis.kill();
    await traffic.progress(20);
    await redis.restart();
    await waitFor(() => isUsed(client));
    const stories = await traffic.finish();

    const made = await effects();
    expect(stories.flatMap((story) => complaints(story, made.get(story.key) ?? 0))).toEqual([]);
    expect(stories.filter((story) => story.stored.size !== 1)).toEqual([]);
    // Nothing but the answer of an equal request that is under way: the store was there all the time.
    const refusals = new Set(stories.flatMap((story) => [...story.refusals]));
    expect([...refusals].filter((refusal) => refusal !== "409 in_progress")).toEqual([]);
    expect(stories.reduce((sum, story) => sum + story.losses, 0)).toBe(0);
  } finally {
    client.disconnect();
  }
});

test("what a flush or a hang takes from the cache, Postgres still replays", async () => {
  const [server] = [await bench.server({ REDIS_URL: redis.url })];
  const other = await bench.server({ REDIS_URL: redis.url });
  const client = new Redis(redis.url);
  try {
    const call = { key: newKey(), body: routes[0]!.body };
    const made = await post(server.url, "/v1/charges", call);
    await client.flushall();
    const replayed = await post(other.url, "/v1/charges", call);
    expect([replayed.status, replayed.headers["idempotent-replayed"]]).toEqual([201, "true"]);
    expect(replayed.bytes.equals(made.bytes)).toBe(true);
    redis.freeze();
    const hung = await Promise.all(
      [server, other].map(({ url }) => post(url, "/v1/charges", call)),
    );
    expect(hung.map(({ status, bytes }) => [status, bytes.equals(made.bytes)])).toEqual([
      [201, true],
      [201, true],
    ]);
    expect((await effects()).get(call.key)).toBe(1);
  } finally {
    redis.thaw();
    client.disconnect();
  }
});
