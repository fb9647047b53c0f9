/**
 * `npm run bench:events`: the sink against the upper bound, binary COPY straight into the keyed table. EVENTS_ROWS (0,5000000) says how
 * many rows the table has, EVENTS_KEYS (v4,v7) what keys: one suite for each, EVENTS_TURN (300,000) how many events a turn has, BENCH_ROUNDS (3) how many turns each
 * contender gets, BENCH_WRITERS (2) and BENCH_BATCH (10,000) how they write. Turns alternate. Starts a PostgreSQL with fsync of its own.
 * Puts its suites into bench/results/events.json, in the place of those of the same size.
 */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { arch, cpus, platform, totalmem } from "node:os";
import pg from "pg";

import type { BatchCounts } from "../../src/pipeline.js";
import { migrate } from "../../src/stores/postgres.js";
import { startPostgres } from "../../test/support/postgres-server.js";
import { endEverything } from "../../test/support/processes.js";
import { directCopy, throughSink, type Shape } from "./contenders.js";
import { createEvents, generate, type Event, type KeyKind } from "./generator.js";
import { processorTime } from "./processor-time.js";

function number(name: string, otherwise: number, least: number, most: number): number {
  const value = Number(process.env[name] ?? otherwise);
  if (value >= least && value <= most) return value;
  throw new Error(`${name} must be from ${least} to ${most}.`);
}

const sizes = (process.env["EVENTS_ROWS"] ?? "0,5000000").split(",").map(Number);
const kinds = (process.env["EVENTS_KEYS"] ?? "v4,v7").split(",") as KeyKind[];
const turn = number("EVENTS_TURN", 300_000, 10_000, 5_000_000);
const rounds = number("BENCH_ROUNDS", 3, 1, 50);
const shape: Shape = {
  writers: number("BENCH_WRITERS", 2, 1, 16),
  batchRows: number("BENCH_BATCH", 10_000, 100, 100_000),
};
const duplicates = 0.1;
const resultsFile = "bench/results/events.json";
const settings = { shared_buffers: "1GB", max_wal_size: "8GB", checkpoint_timeout: "30min" };

type Contender = "direct COPY" | "sink" | "sink, staged";
const contenders: readonly Contender[] = (process.env["BENCH_CONTENDERS"]?.split(",") as
  Contender[] | undefined) ?? ["direct COPY", "sink", "sink, staged"];

/** By contender; CPU in microseconds an event, medians as well. */
type Figures = Readonly<Record<string, number>>;
type Found = {
  readonly rows: number;
  readonly keys: KeyKind;
  readonly perSecond: Figures;
  readonly clientMicros: Figures;
  readonly serverMicros: Figures;
  readonly turns: Readonly<Record<string, readonly number[]>>;
  /** Of the sink's to the bound's. */
  readonly ratio: number;
  readonly stagedRatio: number;
};
type Turn = { readonly perSecond: number; readonly client: number; readonly server: number };

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
  const turns: Record<Contender, Turn[]> = { "direct COPY": [], sink: [], "sink, staged": [] };
  let from = 0;
  for (let round = 0; round <= rounds; round += 1) {
    // The order changes from round to round, and round 0 warms up.
    const order = round % 2 === 0 ? contenders : contenders.toReversed();
    for (const name of order) {
      const share = name === "direct COPY" ? 0 : duplicates;
      const events = arrived(generate(turn, keys, share, round * 7 + from, from));
      from += turn;
      if (rows === 0) await pool.query(`TRUNCATE ${table}`);
      const found = await takeTurn(name, url, pool, table, events);
      if (round > 0) turns[name].push(found);
    }
  }
  await pool.query(`DROP TABLE ${table}`);
  const figures = (figure: keyof Turn): Figures =>
    Object.fromEntries(
      contenders.map((name) => [name, median(turns[name].map((found) => found[figure]))]),
    );
  const perSecond = figures("perSecond");
  const bound = perSecond["direct COPY"] ?? Number.NaN;
  const ratio = (name: Contender): number =>
    Math.round(((perSecond[name] ?? 0) / bound) * 100) / 100;
  return {
    rows,
    keys,
    perSecond,
    clientMicros: figures("client"),
    serverMicros: figures("server"),
    turns: Object.fromEntries(
      contenders.map((name) => [name, turns[name].map((found) => found.perSecond)]),
    ),
    ratio: ratio("sink"),
    stagedRatio: ratio("sink, staged"),
  };
}

/** As events come out of JSON: objects and flat texts of their own. */
function arrived(events: readonly Event[]): Event[] {
  return events.map((event) => JSON.parse(JSON.stringify(event)) as Event);
}

async function takeTurn(
  name: Contender,
  url: string,
  pool: pg.Pool,
  table: string,
  events: Event[],
): Promise<Turn> {
  await pool.query("CHECKPOINT");
  const { rows } = await pool.query<{ data_directory: string }>("SHOW data_directory");
  const directory = rows[0]?.data_directory ?? "";
  const before = processorTime(directory);
  const startedMs = performance.now();
  const counts = await run(name, url, table, events);
  const seconds = (performance.now() - startedMs) / 1_000;
  const after = processorTime(directory);
  const distinct = new Set(events.map(({ id }) => id)).size;
  if (counts !== undefined && counts.inserted !== distinct)
    throw new Error(`${counts.inserted} of ${distinct} were inserted`);
  const micros = (spent: number): number => Math.round((spent / events.length) * 1e8) / 100;
  return {
    perSecond: Math.round(events.length / seconds),
    client: micros(after.client - before.client),
    server: micros(after.server - before.server),
  };
}

async function run(
  name: Contender,
  url: string,
  table: string,
  events: readonly Event[],
): Promise<BatchCounts | undefined> {
  if (name !== "direct COPY")
    return throughSink(url, table, events, { ...shape, copyDirectly: name === "sink" });
  await directCopy(url, table, events, shape);
  return undefined;
}

/** Resident memory of this process before and, at most, while events that nobody keeps go through the sink. */
async function memoryMb(url: string, pool: pg.Pool): Promise<{ before: number; highest: number }> {
  await pool.query(createEvents("streamed"));
  const residentMb = (): number => Math.round(process.memoryUsage.rss() / 2 ** 20);
  const before = residentMb();
  let highest = before;
  const parts = 100;
  await throughSink(
    url,
    "streamed",
    (function* () {
      for (let part = 0; part < parts; part += 1) {
        yield* generate(10_000, "v4", duplicates, part + 1, part * 10_000);
        highest = Math.max(highest, residentMb());
      }
    })(),
    { ...shape, copyDirectly: true },
  );
  await pool.query("DROP TABLE streamed");
  return { before, highest };
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
  const found = earlier();
  const memory = await memoryMb(server.url, pool);
  for (const rows of sizes)
    for (const keys of kinds) {
      const result = await suite(server.url, pool, rows, keys);
      const place = found.findIndex((other) => other.rows === rows && other.keys === keys);
      found.splice(place < 0 ? found.length : place, 1, result);
      process.stdout.write(`${JSON.stringify(result)}\n`);
      const results = { machine, settings, turn, rounds, duplicates, ...shape, memory, found };
      if (process.env["BENCH_KEEP"] !== "no")
        writeFileSync(resultsFile, `${JSON.stringify(results, undefined, 1)}\n`);
    }
  await pool.end();
}

/** Suites of other sizes, which may be run apart. */
function earlier(): Found[] {
  mkdirSync("bench/results", { recursive: true });
  if (!existsSync(resultsFile)) return [];
  return (JSON.parse(readFileSync(resultsFile, "utf8")) as { found: Found[] }).found;
}

try {
  await main();
} finally {
  await endEverything();
}
