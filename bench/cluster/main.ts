/**
 * `npm run bench:cluster`: our server's routes in 1, 2 and 4 processes on one port, in turns, on a PostgreSQL with fsync and a
 * Redis of its own. BENCH_SECONDS (3) and BENCH_ROUNDS (3) say how long. Also measures what a key costs in WAL and on disk.
 * Writes bench/results/cluster.json. The load generator and Postgres share the machine's cores with the processes.
 */
import { mkdirSync, writeFileSync } from "node:fs";
import { cpus } from "node:os";
import { Client } from "pg";

import { startPostgres } from "../../test/support/postgres-server.js";
import { endEverything } from "../../test/support/processes.js";
import { startRedis } from "../../test/support/redis-server.js";
import type { LoadOrder } from "../http/load.js";
import { cpuOf, startLoad, startTalker, type LoadProcess } from "../http/processes.js";
import { median } from "../http/report.js";
import { costOfKeys } from "./keys.js";

const seconds = Number(process.env["BENCH_SECONDS"] ?? 3);
const rounds = Number(process.env["BENCH_ROUNDS"] ?? 3);
const counts = [1, 2, 4] as const;
const routes = [
  { name: "plain", contender: "oncekey-plain", keys: "first" },
  { name: "transaction", contender: "oncekey-transaction", keys: "first" },
  { name: "replay", contender: "oncekey-plain", keys: { replay: 2_000 } },
] as const satisfies readonly {
  name: string;
  contender: string;
  keys: LoadOrder["keys"];
}[];

interface Round {
  readonly perSecond: number;
  readonly p50: number;
  readonly p99: number;
  /** CPU microseconds a request. */
  readonly app: number;
  readonly postgres: number;
  readonly redis: number;
}

interface Group {
  readonly processes: number;
  readonly port: number;
  readonly pid: number;
  readonly prefix: string;
  readonly end: () => Promise<void>;
  readonly measured: Round[];
}

const postgres = await startPostgres({
  settings: { shared_buffers: "512MB", max_wal_size: "4GB", max_connections: "200" },
});
const redis = await startRedis();
const env = { DATABASE_URL: postgres.url, REDIS_URL: redis.url };

async function startGroup(contender: string, processes: number, prefix: string): Promise<Group> {
  const args = [contender, String(processes)];
  const talker = startTalker("bench/cluster/group-main.ts", args, env);
  const port = Number(/^listening (\d+)$/.exec(await talker.first)?.[1]);
  return { processes, port, pid: talker.pid, prefix, end: () => talker.end(), measured: [] };
}

async function once(group: Group, keys: LoadOrder["keys"], load: LoadProcess, name: string) {
  const prefix = typeof keys === "object" ? group.prefix : `${group.prefix}-${name}`;
  const order = { port: group.port, path: "/charges", connections: 64, seconds, keys, prefix };
  if (typeof keys === "object" && name === "warm") await load.store(order, keys.replay);
  const used = () => [group.pid, postgres.pid, redis.pid].map(cpuOf);
  const before = used();
  const result = await load.run(order);
  const statuses = Object.keys(result.statuses).join(", ");
  if (statuses !== "201") throw new Error(`answered ${statuses}`);
  const [app = 0, sql = 0, cache = 0] = used().map(
    (now, index) => ((now - (before[index] ?? 0)) * 1e6) / result.requests,
  );
  if (name === "warm") return;
  const { p50, p99 } = result.latency;
  group.measured.push({
    perSecond: result.perSecond,
    p50,
    p99,
    app,
    postgres: sql,
    redis: cache,
  });
}

async function measureRoute(route: (typeof routes)[number], load: LoadProcess) {
  const groups: Group[] = [];
  for (const processes of counts)
    groups.push(
      await startGroup(
        route.contender,
        processes,
        `c${process.pid}-${route.name}-${groups.length}`,
      ),
    );
  for (const group of groups) await once(group, route.keys, load, "warm");
  for (let round = 0; round < rounds; round += 1)
    for (const group of groups) await once(group, route.keys, load, String(round));
  for (const group of groups) await group.end();
  return groups.map(({ processes, measured }) => ({ processes, rounds: measured }));
}

async function main(): Promise<void> {
  const client = new Client({ connectionString: postgres.url });
  await client.connect();
  await client.query(
    "CREATE TABLE bench_charges (id uuid PRIMARY KEY, amount bigint NOT NULL, currency text NOT NULL, description text)",
  );
  const load = await startLoad();
  const results = [];
  process.stdout.write(
    "| route | processes | a second | p50 | p99 | app µs | Postgres µs | Redis µs |\n",
  );
  for (const route of routes) {
    const rows = await measureRoute(route, load);
    results.push({ name: route.name, rows });
    for (const row of rows) {
      const of = (name: keyof Round) => median(row.rounds.map((round) => round[name]));
      const figures = [of("p50").toFixed(1), of("p99").toFixed(1)];
      const costs = [of("app"), of("postgres"), of("redis")].map((us) => us.toFixed(0));
      const cells = [route.name, row.processes, Math.round(of("perSecond")), ...figures, ...costs];
      process.stdout.write(`| ${cells.join(" | ")} |\n`);
    }
  }
  await load.end();
  const keys = await costOfKeys(client, postgres.url);
  process.stdout.write(`${JSON.stringify(keys, undefined, 1)}\n`);
  await client.end();
  mkdirSync("bench/results", { recursive: true });
  const machine = { node: process.version, cpus: cpus().length, cpu: cpus()[0]?.model };
  const all = { machine, seconds, rounds, connections: 64, routes: results, keys };
  writeFileSync("bench/results/cluster.json", `${JSON.stringify(all, undefined, 1)}\n`);
}

try {
  await main();
} finally {
  await endEverything();
}
