/**
 * `npm run chaos`: storms until the time is up. CHAOS_SECONDS says for how long (300; 10 to 7200), CHAOS_SEED repeats the
 * storms of a run that failed.
 */
import { randomInt } from "node:crypto";

import { createShopDatabase, moveClock } from "../faults/shop.js";
import type { Database } from "../support/databases.js";
import { type RedisServer, startRedis } from "../support/redis-server.js";
import { storm } from "./storm.js";

/** One storm; then the clock is put right again and a new database is taken. */
const stormSeconds = 60;
const mostSeconds = 7_200;

function fromEnvironment(name: string, otherwise: number, least: number, most: number): number {
  const text = process.env[name];
  const value = text === undefined || text === "" ? otherwise : Number(text);
  if (Number.isInteger(value) && value >= least && value <= most) return value;
  throw new Error(`${name} must be an integer from ${least} to ${most}.`);
}

const seconds = fromEnvironment("CHAOS_SECONDS", 300, 10, mostSeconds);
const firstSeed = fromEnvironment("CHAOS_SEED", randomInt(2 ** 31), 0, 2 ** 31);
const storms = Array.from({ length: Math.ceil(seconds / stormSeconds) }, (_, index) => ({
  seed: firstSeed + index,
  length: Math.min(stormSeconds, seconds - index * stormSeconds),
}));

let redis: RedisServer;
let database: Database;
beforeAll(async () => {
  redis = await startRedis();
});
beforeEach(async () => {
  database = await createShopDatabase();
});
afterEach(async () => {
  await database.drop();
});

test.each(storms)("CHAOS_SEED=$seed for $length s", async ({ seed, length }) => {
  const report = await storm({
    seconds: length,
    seed,
    databaseUrl: database.url,
    pool: database.pool,
    redisUrl: redis.url,
    clients: 12,
    moveClock: (aheadMs) => moveClock(database.pool, aheadMs),
  });
  process.stdout.write(`${JSON.stringify({ seed, ...report }, undefined, 2)}\n`);
  expect(report.complaints).toEqual([]);
});
