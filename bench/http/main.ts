/**
 * `npm run bench`: every suite, on a PostgreSQL with fsync and a Redis of its own. BENCH_SECONDS (5) and BENCH_ROUNDS (5) say
 * how long; BENCH_SUITES picks some by name, with commas, and BENCH_CONTENDERS some contenders of them beside the first, of which
 * nothing is written. Writes bench/results/http.json; `npm run bench:figures` takes it into docs/performance.md.
 */
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { arch, cpus, platform, totalmem } from "node:os";

import { startPostgres } from "../../test/support/postgres-server.js";
import { endEverything } from "../../test/support/processes.js";
import { startRedis } from "../../test/support/redis-server.js";
import { measure } from "./measure.js";
import { prepare } from "./places.js";
import { writeReport, type Results } from "./report.js";
import { suites } from "./suites.js";

function number(name: string, otherwise: number, least: number, most: number): number {
  const value = Number(process.env[name] ?? otherwise);
  if (value >= least && value <= most) return value;
  throw new Error(`${name} must be from ${least} to ${most}.`);
}

const chosen = process.env["BENCH_SUITES"]?.split(",");
const only = process.env["BENCH_CONTENDERS"]?.split(",");
const seconds = number("BENCH_SECONDS", 5, 0.5, 60);
const rounds = number("BENCH_ROUNDS", 5, 1, 50);

async function main(): Promise<void> {
  const postgres = await startPostgres({
    settings: { shared_buffers: "512MB", max_wal_size: "4GB" },
  });
  const redis = await startRedis();
  const version = await prepare(postgres.url);
  const runId = `b${process.pid}`;
  const results: Results = {
    machine: {
      node: process.version,
      postgres: version,
      cpus: cpus().length,
      cpu: cpus()[0]?.model ?? "",
      memoryGb: Math.round(totalmem() / 2 ** 30),
      platform: `${platform()} ${arch()}`,
    },
    seconds,
    rounds,
    suites: [],
  };
  for (const suite of suites.filter(({ name }) => chosen?.includes(name) ?? true)) {
    process.stdout.write(`\n${suite.title}\n`);
    const entrants = suite.entrants.filter(
      ({ contender, label }, index) =>
        index === 0 || (only?.some((name) => name === contender || name === label) ?? true),
    );
    const rows = await measure(
      { ...suite, entrants },
      {
        databaseUrl: postgres.url,
        redisUrl: redis.url,
        postgresPid: postgres.pid,
        redisPid: redis.pid,
        rounds,
        seconds,
        runId,
      },
    );
    results.suites.push({ ...suite, rows });
    process.stdout.write(writeReport(results.suites.at(-1) as Results["suites"][number]));
  }
  // Part of a suite says nothing about those that were left out.
  if (only !== undefined) return;
  mkdirSync("bench/results", { recursive: true });
  const file = "bench/results/http.json";
  const before = readJson(file);
  const kept = before?.suites.filter(
    ({ name }) => !results.suites.some((suite) => suite.name === name),
  );
  const all = [...(kept ?? []), ...results.suites];
  const places = new Map(suites.map(({ name }, index) => [name, index]));
  all.sort((a, b) => (places.get(a.name) ?? 0) - (places.get(b.name) ?? 0));
  const merged = { ...results, suites: all };
  writeFileSync(file, `${JSON.stringify(merged, undefined, 1)}\n`);
}

function readJson(file: string): Results | undefined {
  try {
    return JSON.parse(readFileSync(file, "utf8")) as Results;
  } catch {
    return undefined;
  }
}

try {
  await main();
} finally {
  await endEverything();
}
