/**
 * The two servers that one run of the tests shares. A URL in the environment is used as it is and must answer;
 * nothing is ever assumed about the customary ports, where somebody's data may be.
 */
import pg from "pg";

import { startPostgres } from "./postgres-server.js";
import { endEverything } from "./processes.js";
import { redisAnswers, startRedis } from "./redis-server.js";

declare global {
  var endSharedServers: (() => Promise<void>) | undefined;
}

async function checkPostgres(url: string): Promise<void> {
  const client = new pg.Client({ connectionString: url, connectionTimeoutMillis: 5_000 });
  try {
    await client.connect();
    await client.query("select 1");
  } catch (cause) {
    throw new Error("DATABASE_URL is set and does not answer.", { cause });
  } finally {
    await client.end().catch(() => {});
  }
}

async function checkRedis(url: string): Promise<void> {
  const { hostname, port } = new URL(url);
  const answers = await redisAnswers(Number(port || 6379), hostname);
  if (!answers) throw new Error("REDIS_URL is set and does not answer.");
}

/** Run once by jest, before any worker starts: workers inherit the two variables. */
export async function startSharedServers(): Promise<void> {
  globalThis.endSharedServers = endEverything;
  try {
    const { DATABASE_URL: givenPostgres, REDIS_URL: givenRedis } = process.env;
    if (givenPostgres) await checkPostgres(givenPostgres);
    if (givenRedis) await checkRedis(givenRedis);
    process.env["ONCEKEY_TEST_POSTGRES_URL"] = givenPostgres || (await startPostgres()).url;
    process.env["ONCEKEY_TEST_REDIS_URL"] = givenRedis || (await startRedis()).url;
  } catch (error) {
    await endEverything();
    throw error;
  }
}

function shared(name: string): string {
  const url = process.env[name];
  if (url === undefined || url === "")
    throw new Error(`${name} is not set; run the tests by jest.`);
  return url;
}

/** The shared PostgreSQL's maintenance database. Tests use `useDatabase`, which makes one of their own in it. */
export function postgresUrl(): string {
  return shared("ONCEKEY_TEST_POSTGRES_URL");
}

/** The shared Redis. Test files run side by side: use a key prefix of your own, and never FLUSHALL here. */
export function redisUrl(): string {
  return shared("ONCEKEY_TEST_REDIS_URL");
}
