/**
 * `npm run bench:heap`: what a request takes on V8's heap while its handler runs, besides what it takes without us. HEAP_REQUESTS
 * (1,000) are under way at once, each on a connection of its own. Writes bench/results/heap.json.
 */
import { mkdirSync, writeFileSync } from "node:fs";
import { setTimeout } from "node:timers/promises";

import { startPostgres } from "../../test/support/postgres-server.js";
import { endEverything } from "../../test/support/processes.js";
import { startRedis } from "../../test/support/redis-server.js";
import { waitFor } from "../../test/support/wait-for.js";
import type { LoadOrder } from "./load.js";
import { prepare } from "./places.js";
import { startContender, startLoad } from "./processes.js";

const count = Number(process.env["HEAP_REQUESTS"] ?? 1_000);
const contenders = ["bare", "oncekey-memory", "oncekey-plain-postgres", "oncekey-plain"] as const;
const rounds = 3;
const settleMs = 2_000;

type Ground = Readonly<Record<"DATABASE_URL" | "REDIS_URL", string>>;

/** Bytes for each request under way, in each round. */
async function weigh(contender: string, env: Ground): Promise<number[]> {
  const server = await startContender(contender, env, ["--expose-gc"]);
  const load = await startLoad();
  const keys: LoadOrder["keys"] = contender === "bare" ? "bare" : "first";
  const order = {
    port: server.port,
    path: "/charges",
    keys,
    prefix: `h${process.pid}-${contender}`,
  };
  await load.run({ ...order, connections: 50, seconds: 3, prefix: `${order.prefix}-warm` });
  const weights: number[] = [];
  for (let round = 0; round < rounds; round += 1) {
    // What the last round leaves to be done behind would be weighed here and not below.
    await setTimeout(settleMs);
    const before = await server.heap();
    await server.hold(true);
    const prefix = `${order.prefix}-${round}`;
    const running = load.run({ ...order, connections: count, seconds: 0.001, prefix });
    // What fails here is told by the wait.
    running.catch(() => undefined);
    await waitFor(async () => (await server.waiting()) === count, {
      what: `${count} requests to be under way`,
      timeoutMs: 60_000,
      intervalMs: 200,
    });
    weights.push(Math.round(((await server.heap()) - before) / count));
    await server.hold(false);
    await running;
  }
  await load.end();
  await server.end();
  return weights;
}

async function main(): Promise<void> {
  const postgres = await startPostgres();
  const redis = await startRedis();
  await prepare(postgres.url);
  const env = { DATABASE_URL: postgres.url, REDIS_URL: redis.url };
  const found: { contender: string; bytes: number[] }[] = [];
  for (const contender of contenders) {
    const bytes = await weigh(contender, env);
    found.push({ contender, bytes });
    process.stdout.write(`${contender}: ${bytes.join(", ")} bytes a request under way\n`);
  }
  mkdirSync("bench/results", { recursive: true });
  const results = { node: process.version, requests: count, found };
  writeFileSync("bench/results/heap.json", `${JSON.stringify(results, undefined, 1)}\n`);
}

try {
  await main();
} finally {
  await endEverything();
}
