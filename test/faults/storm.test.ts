/** A short storm; the long one is `npm run chaos`. */
import { storm } from "../chaos/storm.js";
import { type RedisServer, startRedis } from "../support/redis-server.js";
import { useBench } from "./bench.js";
import { moveClock } from "./shop.js";

let redis: RedisServer;
beforeAll(async () => {
  redis = await startRedis();
});
const bench = useBench();

test("clients, crashes and lost replies at once: no key twice, no two answers, no key without an end", async () => {
  const report = await storm({
    seconds: 12,
    seed: 20_260_101,
    databaseUrl: bench.databaseUrl,
    pool: bench.pool,
    redisUrl: redis.url,
    moveClock: (aheadMs) => moveClock(bench.pool, aheadMs),
  });
  expect(report.complaints).toEqual([]);
  expect(report.keys).toBeGreaterThan(100);
  expect(Object.keys(report.faults).length).toBeGreaterThan(4);
}, 300_000);
