/**
 * `npm run bench:growth`: what stored keys cost. GROWTH_ROWS (0.1 to 50 million rows, default 1,000,000) says how large the
 * largest table gets, BENCH_SECONDS (5) and BENCH_ROUNDS (3) how long each turn takes and how many there are, BENCH_SUITES which of
 * growth, layouts, reaping and bytes to run. Starts a PostgreSQL with fsync and a Redis of its own. Writes bench/results/growth.json.
 */
import { mkdirSync, readFileSync, statfsSync, writeFileSync } from "node:fs";
import { arch, cpus, platform, tmpdir, totalmem } from "node:os";
import pg from "pg";

import { startPostgres } from "../../test/support/postgres-server.js";
import { endEverything } from "../../test/support/processes.js";
import { startRedis } from "../../test/support/redis-server.js";
import { bytesPerKey } from "./bytes.js";
import { reaping } from "./reaping.js";
import { writeGrowth, writeLayouts } from "./report.js";
import { compareLayouts, growth, type GrowthRow, type Ground } from "./suites.js";

function number(name: string, otherwise: number, least: number, most: number): number {
  const value = Number(process.env[name] ?? otherwise);
  if (value >= least && value <= most) return value;
  throw new Error(`${name} must be from ${least} to ${most}.`);
}

const rows = number("GROWTH_ROWS", 1_000_000, 100_000, 50_000_000);
const seconds = number("BENCH_SECONDS", 5, 0.5, 60);
const rounds = number("BENCH_ROUNDS", 3, 1, 50);
const concurrency = number("BENCH_CONCURRENCY", 100, 1, 5_000);
const chosen = process.env["BENCH_SUITES"]?.split(",") ?? ["growth", "layouts", "reaping", "bytes"];
const file = "bench/results/growth.json";

/** Settings that are not the server's defaults; the cache is a fifth of what a dedicated server of this size would have. */
const settings = {
  shared_buffers: "1GB",
  max_wal_size: "8GB",
  checkpoint_timeout: "15min",
  autovacuum_naptime: "5s",
};

/** Bytes that a key takes while it is being written, with its write-ahead log. */
const roomPerKey = 3_500;

async function main(): Promise<void> {
  const { bavail, bsize } = statfsSync(tmpdir());
  if (bavail * bsize < rows * roomPerKey + 20e9) throw new Error(`no room for ${rows} keys`);
  const server = await startPostgres({ settings });
  const pool = new pg.Pool({ connectionString: server.url, max: 4 });
  // The server is ended when a suite fails; the failure is what should be seen.
  pool.on("error", () => undefined);
  const { rows: version } = await pool.query<{ server_version: string }>("SHOW server_version");
  const ground: Ground = { pool, postgresPid: server.pid, seconds, rounds, concurrency };
  const machine = {
    node: process.version,
    postgres: version[0]?.server_version ?? "",
    cpus: cpus().length,
    cpu: cpus()[0]?.model ?? "",
    memoryGb: Math.round(totalmem() / 2 ** 30),
    platform: `${platform()} ${arch()}`,
  };
  const results: Record<string, unknown> = { ...readResults(), machine, settings };
  const keep = (name: string, found: unknown): void => {
    results[name] = { seconds, rounds, concurrency, found };
    mkdirSync("bench/results", { recursive: true });
    writeFileSync(file, `${JSON.stringify(results, undefined, 1)}\n`);
  };
  if (chosen.includes("growth")) {
    const found: GrowthRow[] = [];
    for (const filling of fillings(rows)) {
      found.push(await growth(ground, filling));
      process.stdout.write(writeGrowth(found.slice(-1)));
      keep(`growth to ${rows}`, found);
    }
  }
  if (chosen.includes("layouts")) {
    const found = await compareLayouts(ground);
    process.stdout.write(writeLayouts(found));
    keep("layouts", found);
  }
  if (chosen.includes("reaping")) {
    const found = await reaping(ground);
    process.stdout.write(`${JSON.stringify(found, undefined, 1)}\n`);
    keep("reaping", found);
  }
  if (chosen.includes("bytes")) {
    const redis = await startRedis();
    const found = await bytesPerKey(pool, redis.url);
    process.stdout.write(`${JSON.stringify(found, undefined, 1)}\n`);
    keep("bytes", found);
  }
  await pool.end();
}

/** Large bodies lie out of line and change nothing about claims, so that the largest table has small ones. */
function fillings(most: number): Parameters<typeof growth>[1][] {
  const keys = ["random", "ordered"] as const;
  return [
    ...keys.map((kind) => ({ rows: most, keys: kind, bodyBytes: 300 })),
    { rows: Math.min(most, 1_000_000) / 4, keys: "random", bodyBytes: 2_000 },
    { rows: Math.min(most, 1_000_000) / 20, keys: "random", bodyBytes: 20_000 },
  ];
}

function readResults(): Record<string, unknown> {
  try {
    return JSON.parse(readFileSync(file, "utf8")) as Record<string, unknown>;
  } catch {
    return {};
  }
}

try {
  await main();
} finally {
  await endEverything();
}
