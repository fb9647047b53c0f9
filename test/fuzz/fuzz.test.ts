/** A short round; the long one is `npm run fuzz`. */
import { useDatabase } from "../support/databases.js";
import { type RedisServer, startRedis } from "../support/redis-server.js";
import { judgeMemory } from "./memory.js";
import { fuzz } from "./round.js";

let redis: RedisServer;
beforeAll(async () => {
  redis = await startRedis();
});
const database = useDatabase();

test("random requests, a seventh of them broken: no failure, no hang, no answer that is not the first one", async () => {
  const report = await fuzz({
    requests: 3_000,
    seed: 20_260_102,
    databaseUrl: database.url,
    pool: database.pool,
    redisUrl: redis.url,
  });
  expect(report.complaints).toEqual([]);
  expect(report.requests).toBeGreaterThanOrEqual(3_000);
  expect(Object.keys(report.hostile).length).toBeGreaterThan(25);
  expect(report.made["charges"]).toBeGreaterThan(100);
  expect(report.answers).toMatchObject({ "422 key_reused": expect.any(Number) });
}, 300_000);

test("memory that grows with the number of requests is told, and a sawtooth is not", () => {
  const samples = (heap: (index: number) => number) =>
    Array.from({ length: 40 }, (_, index) => {
      const heapMb = heap(index);
      return { after: index * 1_000, residentMb: 200 + heapMb, heapMb };
    });
  const sawtooth = samples((index) => 40 + 20 * (index % 5));
  expect(judgeMemory(sawtooth, 40_000)).toEqual([]);
  const leak = samples((index) => 40 + 20 * index);
  expect(judgeMemory(leak, 40_000)).toEqual([
    "residentMb grew from 540 to 940, more than 750",
    "heapMb grew from 340 to 740, more than 490",
  ]);
});
