/**
 * `npm run bench:events`: the sink against the upper bound, binary COPY straight into the keyed table. EVENTS_ROWS (0 to 50 million,
 * default 5,000,000) says how large the large table is, EVENTS_TURN (300,000) how many events a turn has, BENCH_ROUNDS (3) how many turns
 * each contender gets, BENCH_WRITERS (2) and BENCH_BATCH (10,000) how they write. Turns alternate. Starts a PostgreSQL with fsync of its own.
 * Writes bench/results/events.json.
 */
import { mkdirSync, writeFileSync } from "node:fs";
import { arch, cpus, platform, totalmem } from "node:os";
import pg from "pg";

import { migrate } from "../../src/stores/postgres.js";
import { startPostgres } from "../../test/support/postgres-server.js";
import { endEverything } from "../../test/support/processes.js";
import { directCopy, throughSink, type Shape } from "./contenders.js";
import { createEvents, generate, type KeyKind } from "./generator.js";

function number(name: string, otherwise: number, least: number, most: number): number {
  const value = Number(process.env[name] ?? otherwise);
  if (value >= least && value <= most) return value;
  throw new Error(`${name} must be from ${least} to ${most}.`);
}

const largest = number("EVENTS_ROWS", 5_000_000, 0, 50_000_000);
const turn = number("EVENTS_TURN", 300_000, 10_000, 5_000_000);
const rounds = number("BENCH_ROUNDS", 3, 1, 50);
const shape: Shape = {
  writers: number("BENCH_WRITERS", 2, 1, 16),
  batchRows: number("BENCH_BATCH", 10_000, 100, 100_000),
};
const duplicates = 0.1;
const settings = { shared_buffers: "1GB", max_wal_size: "8GB", checkpoint_timeout: "30min" };

type Contender = "direct COPY" | "sink" | "sink, staged";
const contenders: readonly Contender[] = (process.env["BENCH_CONTENDERS"]?.split(",") as
  Contender[] | undefined) ?? ["direct COPY", "sink", "sink, staged"];

type Found = {
  readonly rows: number;
  readonly keys: KeyKind;
  readonly perSecond: Readonly<Record<string, number>>;
  readonly turns: Readonly<Record<string, readonly number[]>>;
  /** Of the sink's to the bound's. */
  readonly ratio: number;
  readonly stagedRatio: number;
};

const median = (values: readonly number[]): number =>
  [...values].sort((a, b) => a - b)[values.length >> 1] as number;

async function fill(pool: pg.Pool, table: string, rows: number, keys: KeyKind): Promise<void> {
  const id =
    keys === "v4"
      ? "gen_random_uuid()"
      : "(lpad(to_hex(1700000000000 + n / 200), 12, '0') || '7' || substr(md5(n::text), 1, 3) || 'a' || substr(md5(n::text), 4, 15))::uuid";
  for (let from = 0; from < rows; from += 500_000)
    await pool.query(
      `INSERT INTO ${table} SELECT ${id}, 'm_' || n % 5000, n % 100000, '2026-01-01Z'::timestamptz + n * interval '1 ms',
         jsonb_build_object('campaign', n % 1000, 'device', 'phone') FROM generate_series($1::bigint, $2::bigint) n`,
      [from, Math.min(from + 500_000, rows) - 1],
    );
  await pool.query(`VACUUM (ANALYZE) ${table}`);
}

async function suite(url: string, pool: pg.Pool, rows: number, keys: KeyKind): Promise<Found> {
  const table = `events_${keys}_${rows}`;
  await pool.query(createEvents(table));
  await fill(pool, table, rows, keys);
  const turns: Record<string, number[]> = Object.fromEntries(contenders.map((name) => [name, []]));
  let from = 0;
  for (let round = 0; round <= rounds; round += 1) {
    // The order changes from round to round, and round 0 warms up.
    const order = round % 2 === 0 ? contenders : contenders.toReversed();
    for (const name of order) {
      const events = generate(
        turn,
        keys,
        name === "direct COPY" ? 0 : duplicates,
        round * 7 + from,
        from,
      );
      from += turn;
      if (rows === 0) await pool.query(`TRUNCATE ${table}`);
      await pool.query("CHECKPOINT");
      const startedMs = performance.now();
      await run(name, url, table, events);
      const perSecond = Math.round((events.length / (performance.now() - startedMs)) * 1_000);
      if (round > 0) turns[name]?.push(perSecond);
    }
  }
  await pool.query(`DROP TABLE ${table}`);
  const perSecond = Object.fromEntries(contenders.map((name) => [name, median(turns[name] ?? [])]));
  const bound = perSecond["direct COPY"] ?? Number.NaN;
  const ratio = (name: Contender): number =>
    Math.round(((perSecond[name] ?? 0) / bound) * 100) / 100;
  return { rows, keys, perSecond, turns, ratio: ratio("sink"), stagedRatio: ratio("sink, staged") };
}

async function run(
  name: Contender,
  url: string,
  table: string,
  events: ReturnType<typeof generate>,
): Promise<void> {
  if (name === "direct COPY") return directCopy(url, table, events, shape);
  const counts = await throughSink(url, table, events, { ...shape, copyDirectly: name === "sink" });
  const distinct = new Set(events.map(({ id }) => id)).size;
  if (counts.inserted !== distinct)
    throw new Error(`${counts.inserted} of ${distinct} were inserted`);
}

async function main(): Promise<void> {
  const server = await startPostgres({ settings });
  const pool = new pg.Pool({ connectionString: server.url, max: 2 });
  pool.on("error", () => undefined);
  await migrate({ pool });
  const { rows: version } = await pool.query<{ server_version: string }>("SHOW server_version");
  const machine = {
    node: process.version,
    postgres: version[0]?.server_version ?? "",
    cpus: cpus().length,
    cpu: cpus()[0]?.model ?? "",
    memoryGb: Math.round(totalmem() / 2 ** 30),
    platform: `${platform()} ${arch()}`,
  };
  const found: Found[] = [];
  for (const rows of largest === 0 ? [0] : [0, largest])
    for (const keys of ["v4", "v7"] as const) {
      const result = await suite(server.url, pool, rows, keys);
      found.push(result);
      process.stdout.write(`${JSON.stringify(result)}\n`);
    }
  await pool.end();
  mkdirSync("bench/results", { recursive: true });
  const results = { machine, settings, turn, rounds, duplicates, ...shape, found };
  if (process.env["BENCH_KEEP"] !== "no")
    writeFileSync("bench/results/events.json", `${JSON.stringify(results, undefined, 1)}\n`);
}

try {
  await main();
} finally {
  await endEverything();
}
