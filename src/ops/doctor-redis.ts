/**
 * Whether a Redis makes oncekey fast. Owns: which settings matter, and why. Nothing here can make an answer wrong, so that most
 * of what is found is about speed.
 */
import type { Cluster, Redis } from "ioredis";
import { ok, problem, unless } from "./finding.js";
import type { Finding } from "./finding.js";

export interface RedisCheck {
  readonly client: Redis | Cluster;
  /** Monotonic time, for the latency. */
  readonly monotonicMs: () => number;
}

const oldest = [6, 2] as const;
const pings = 20;
/** The default budget of redisCache. */
const budgetMs = 50;

/** Rejects only where Redis cannot be asked at all. */
export async function examineRedis({
  client,
  monotonicMs,
}: RedisCheck): Promise<readonly Finding[]> {
  const info = readInfo(await client.info());
  return [
    versionFinding(info.get("redis_version") ?? "unknown"),
    roleFinding(info.get("role") ?? "master"),
    evictionFinding(info.get("maxmemory_policy") ?? "unknown", Number(info.get("maxmemory") ?? 0)),
    ok("redis", "persistence", "irrelevant: what is lost here is read from Postgres again"),
    clusterFinding(info.get("cluster_enabled") === "1", client.isCluster),
    await scriptFinding(client),
    await latencyFinding(client, monotonicMs),
  ];
}

function readInfo(text: string): ReadonlyMap<string, string> {
  const lines = text.split(/\r?\n/).filter((line) => line.includes(":"));
  return new Map(
    lines.map((line) => [line.slice(0, line.indexOf(":")), line.slice(line.indexOf(":") + 1)]),
  );
}

function versionFinding(version: string): Finding {
  const [major = 0, minor = 0] = version.split(".").map(Number);
  return unless("redis", "version", version, {
    when: !(major > oldest[0] || (major === oldest[0] && minor >= oldest[1])),
    level: "problem",
    advice: "oncekey needs Redis 6.2 or newer.",
  });
}

function roleFinding(role: string): Finding {
  return unless("redis", "role of the server", role, {
    when: role !== "master",
    level: "problem",
    advice: "A replica takes no writes, so that nothing would be cached. Name the master.",
  });
}

function evictionFinding(policy: string, maxMemory: number): Finding {
  const limit = maxMemory === 0 ? "no memory limit" : `limit ${maxMemory} bytes`;
  return unless("redis", "maxmemory-policy", `${policy}, ${limit}`, {
    when: policy.startsWith("allkeys-"),
    level: "warning",
    advice:
      "Under allkeys-* a full Redis throws out whatever it likes: entries of oncekey, which costs a look at Postgres and " +
      "nothing else, and for them also keys of other applications that have no expiry. All of oncekey's entries " +
      "expire, so volatile-lru or volatile-ttl touches nothing else, and noeviction makes the cache pause while it is full.",
  });
}

function clusterFinding(isEnabled: boolean, isClusterClient: boolean): Finding {
  return unless("redis", "cluster mode", isEnabled ? "on" : "off", {
    when: isEnabled && !isClusterClient,
    level: "warning",
    advice: "Give redisCache an ioredis Cluster; a single client is answered MOVED for most keys.",
  });
}

async function scriptFinding(client: Redis | Cluster): Promise<Finding> {
  try {
    await client.eval("return redis.call('PTTL', KEYS[1])", 1, "oncekey:doctor");
    return ok("redis", "scripts", "allowed");
  } catch (error) {
    const words = error instanceof Error ? error.message : String(error);
    return problem("redis", "scripts", words, "The user needs EVAL and EVALSHA on oncekey:*.");
  }
}

async function latencyFinding(
  client: Redis | Cluster,
  monotonicMs: () => number,
): Promise<Finding> {
  const times: number[] = [];
  for (let count = 0; count < pings; count += 1) {
    const before = monotonicMs();
    await client.ping();
    times.push(monotonicMs() - before);
  }
  times.sort((a, b) => a - b);
  const [median, worst] = [times[pings / 2] ?? 0, times.at(-1) ?? 0];
  return unless(
    "redis",
    "latency",
    `median ${median.toFixed(2)} ms, worst of ${pings} ${worst.toFixed(2)} ms`,
    {
      when: median > budgetMs / 5,
      level: "warning",
      advice: `A request waits at most ${budgetMs} ms for Redis and then asks Postgres. This Redis is too far away to help.`,
    },
  );
}
