/**
 * The Redis connection of operators' commands. In a file of its own, so that only commands that were told of a Redis load its
 * driver. Must never print a URL, which holds a password.
 */
import { Cluster, Redis } from "ioredis";
import { usageError } from "./exit.js";

const connectTimeoutMs = 5_000;

/** Connects, or rejects at once: a command that waits in the background helps nobody. */
export async function withRedis<T>(
  url: string,
  work: (client: Redis | Cluster) => Promise<T>,
): Promise<T> {
  if (!/^rediss?:\/\//.test(url))
    throw usageError("The Redis URL must begin with redis:// or rediss://.");
  const single = new Redis(url, {
    lazyConnect: true,
    connectTimeout: connectTimeoutMs,
    commandTimeout: connectTimeoutMs,
    maxRetriesPerRequest: 0,
    retryStrategy: () => null,
    disconnectTimeout: 100,
  });
  let lastError: Error | undefined;
  single.on("error", (error: Error) => (lastError = error));
  try {
    await single.connect().catch((error: unknown) => {
      throw lastError ?? error;
    });
    const isCluster = /^cluster_enabled:1\s*$/m.test(await single.info("cluster"));
    if (!isCluster) return await work(single);
    const cluster = new Cluster([url], { clusterRetryStrategy: () => null });
    cluster.on("error", () => undefined);
    try {
      return await work(cluster);
    } finally {
      cluster.disconnect();
    }
  } finally {
    single.disconnect();
  }
}
