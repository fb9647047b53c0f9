/**
 * `npm run fuzz`: FUZZ_REQUESTS (200,000) random requests against the server. FUZZ_SEED repeats the requests of a run that
 * failed, in the order they were planned; who is faster on the wire stays open.
 */
import { randomInt } from "node:crypto";

import { useDatabase } from "../support/databases.js";
import { type RedisServer, startRedis } from "../support/redis-server.js";
import { fuzz } from "./round.js";

function fromEnvironment(name: string, otherwise: number, least: number, most: number): number {
  const text = process.env[name];
  const value = text === undefined || text === "" ? otherwise : Number(text);
  if (Number.isInteger(value) && value >= least && value <= most) return value;
  throw new Error(`${name} must be an integer from ${least} to ${most}.`);
}

const requests = fromEnvironment("FUZZ_REQUESTS", 200_000, 100, 10_000_000);
const seed = fromEnvironment("FUZZ_SEED", randomInt(2 ** 31), 0, 2 ** 31);

let redis: RedisServer;
beforeAll(async () => {
  redis = await startRedis();
});
const database = useDatabase();

test(`FUZZ_SEED=${seed}, ${requests} requests`, async () => {
  const report = await fuzz({
    requests,
    seed,
    databaseUrl: database.url,
    pool: database.pool,
    redisUrl: redis.url,
    progress: ({ after, residentMb, heapMb }) =>
      process.stdout.write(`${after} requests, ${residentMb} MB resident, ${heapMb} MB of heap\n`),
  });
  const { memory: _told, ...rest } = report;
  process.stdout.write(`${JSON.stringify({ seed, ...rest }, undefined, 2)}\n`);
  expect(report.complaints).toEqual([]);
});
