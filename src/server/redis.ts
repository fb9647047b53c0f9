/**
 * The server's Redis. Owns: the client's settings. Losing Redis costs speed and nothing else, so nothing here waits for it.
 */
import { redisCache } from "../stores/redis.js";
import type { Cache } from "../index.js";
import type { Pingable } from "./health.js";

export interface ServerRedis {
  readonly client: Pingable;
  readonly cache: Cache;
  close(): Promise<void>;
}

/** Longest pause between two tries to connect. */
const maxRetryMs = 2_000;

/** Connects in the background; says so once when Redis does not answer, and goes on without it. */
export async function openRedis(url: string, say: (line: string) => void): Promise<ServerRedis> {
  const { Redis } = await import("ioredis");
  const client = new Redis(url, {
    // A command fails at once while there is no connection: the answer is in Postgres.
    enableOfflineQueue: false,
    maxRetriesPerRequest: 0,
    // Nothing here is worth waiting for at the end: ioredis holds the process this long for a socket that is closed already.
    disconnectTimeout: 100,
    retryStrategy: (times) => Math.min(times * 100, maxRetryMs),
  });
  let isDown = false;
  client.on("error", () => {
    if (!isDown) say("Redis does not answer; going on without it.");
    isDown = true;
  });
  client.on("ready", () => {
    if (isDown) say("Redis answers again.");
    isDown = false;
  });
  const cache = redisCache({ client });
  return {
    client,
    cache,
    close: async () => {
      await cache.close();
      client.disconnect();
    },
  };
}
