/**
 * Writers of one table that are killed with -9 and started again, over a server that is restarted, while its aggregate is computed again
 * and again: afterwards every event must be there once, and the aggregate must be that of a plain GROUP BY. Owns: the faults and
 * the reckoning.
 */
import { setTimeout } from "node:timers/promises";

import pg from "pg";

import { type Aggregate, recomputeAggregate } from "../../src/pipeline/aggregate.js";
import { migrate } from "../../src/stores/postgres.js";
import type { PostgresServer } from "../support/postgres-server.js";
import { type RunningProcess, startProgram } from "../support/server-process.js";
import { waitFor } from "../support/wait-for.js";
import { expectedSums, type Mode, type Sums } from "./event-stream.js";
import type { WriterPlan } from "./programs/event-writer.js";

export type StormPlan = {
  readonly server: PostgresServer;
  readonly mode: Mode;
  readonly events: number;
  readonly chunkEvents: number;
  readonly batchRows: number;
  readonly killEveryMs: number;
  /** How long after a pass over the aggregate's dirty keys the next one begins. */
  readonly recomputeEveryMs: number;
  /** After which shares of all chunks the server is restarted: the first time as in a crash. */
  readonly restartAt: readonly number[];
  readonly isReversed?: boolean;
  readonly table: string;
};

export type StormReport = {
  readonly kills: number;
  readonly restarts: number;
  readonly durationMs: number;
  readonly expected: Sums;
  readonly found: Sums;
  /** Of all rows. */
  readonly checksum: string;
  readonly aggregate: {
    /** Passes that ended well while events were arriving. */
    readonly passes: number;
    readonly rows: number;
    /** Rows that a plain GROUP BY has and the aggregate has not, or the other way round. */
    readonly wrong: number;
  };
};

const writers = 3;
const limitMs = 3_000_000;

/** `since`: what was durable when it was started. */
type Writer = { process: RunningProcess; durable: number; since: number; isDone: boolean };

export async function eventStorm(plan: StormPlan): Promise<StormReport> {
  const { server, table } = plan;
  const pool = new pg.Pool({ connectionString: server.url, max: 2 });
  pool.on("error", () => undefined);
  await migrate({ pool });
  await pool.query(`
    CREATE TABLE IF NOT EXISTS ${table} (id uuid PRIMARY KEY, n int NOT NULL, version int NOT NULL, amount bigint NOT NULL,
      merchant text NOT NULL, at timestamptz NOT NULL);
    CREATE TABLE IF NOT EXISTS ${table}_days (merchant text, day date, amount numeric, events bigint, PRIMARY KEY (merchant, day))`);
  const aggregate = recomputeAggregate({
    pool,
    source: table,
    target: `${table}_days`,
    key: ["merchant"],
    day: { column: "day", of: "at" },
    values: { amount: "sum(amount)", events: "count(*)" },
  });
  await aggregate.prepare();
  const startedMs = performance.now();
  const ending = new AbortController();
  const recomputing = recompute(aggregate, plan.recomputeEveryMs, ending.signal);
  const { kills, restarts } = await write(plan).finally(() => ending.abort());
  const durationMs = Math.round(performance.now() - startedMs);
  const passes = await recomputing;
  while ((await aggregate.recomputeMarked()).hasMore);
  const found = await reckon(pool, table);
  await pool.end();
  return {
    kills,
    restarts,
    durationMs,
    expected: expectedSums(plan.events, plan.mode),
    found: found.sums,
    checksum: found.checksum,
    aggregate: { passes, ...found.aggregate },
  };
}

/** Never rejects; answers how many passes ended well. */
async function recompute(
  aggregate: Aggregate,
  everyMs: number,
  ended: AbortSignal,
): Promise<number> {
  let passes = 0;
  while (!ended.aborted) {
    // A server that is being restarted answers the next time.
    await aggregate.recomputeMarked().then(
      () => (passes += 1),
      () => undefined,
    );
    await setTimeout(everyMs, undefined, { signal: ended }).catch(() => undefined);
  }
  return passes;
}

type Reckoning = Readonly<Record<"rows" | "amounts" | "weighted" | "checksum", string>>;
type Compared = Readonly<Record<"rows" | "wrong", string>>;

async function reckon(
  pool: pg.Pool,
  table: string,
): Promise<{
  sums: Sums;
  checksum: string;
  aggregate: { rows: number; wrong: number };
}> {
  const { rows } = await pool.query<Reckoning>(
    `SELECT count(*) AS rows, sum(amount) AS amounts, sum(amount * (n % 1009)) AS weighted,
       sum(('x' || left(md5(t::text), 16))::bit(64)::bigint::numeric) AS checksum FROM ${table} t`,
  );
  const { rows: compared } = await pool.query<Compared>(
    `WITH plain AS (SELECT merchant, (at AT TIME ZONE 'UTC')::date AS day, sum(amount) AS amount, count(*) AS events
       FROM ${table} GROUP BY 1, 2)
     SELECT (SELECT count(*) FROM ${table}_days) AS rows,
       (SELECT count(*) FROM plain p FULL JOIN ${table}_days d USING (merchant, day)
        WHERE p.amount IS DISTINCT FROM d.amount OR p.events IS DISTINCT FROM d.events) AS wrong`,
  );
  const [row] = rows;
  const [days] = compared;
  return {
    sums: {
      rows: Number(row?.rows),
      amounts: Number(row?.amounts),
      weighted: Number(row?.weighted),
    },
    checksum: row?.checksum ?? "",
    aggregate: { rows: Number(days?.rows), wrong: Number(days?.wrong) },
  };
}

async function write(plan: StormPlan): Promise<{ kills: number; restarts: number }> {
  const start = (index: number, from: number): RunningProcess => {
    const { mode, events, chunkEvents, batchRows, table, isReversed = false } = plan;
    const given: WriterPlan = {
      url: plan.server.url,
      table,
      mode,
      events,
      chunkEvents,
      batchRows,
      isReversed,
      index,
      of: writers,
      from,
    };
    return startProgram("test/chaos/programs/event-writer.ts", { args: [JSON.stringify(given)] });
  };
  const all: Writer[] = Array.from({ length: writers }, (_, index) => ({
    process: start(index, 0),
    durable: 0,
    since: 0,
    isDone: false,
  }));
  const chunks = Math.ceil(plan.events / plan.chunkEvents);
  let kills = 0;
  let restarts = 0;
  let victim = 0;
  let killedAtMs = performance.now();
  let complaint: string | undefined;
  await waitFor(
    async () => {
      for (const writer of all) look(writer);
      // Thrown here it would count as "not yet".
      complaint = all
        .map(({ process }) => process.output())
        .find((output) => /error/i.test(output));
      if (complaint !== undefined) return true;
      const durable = all.reduce((sum, writer) => sum + writer.durable, 0);
      const nextRestart = plan.restartAt[restarts];
      if (nextRestart !== undefined && durable >= nextRestart * chunks) {
        await plan.server.restart(restarts === 0 ? "immediate" : "fast");
        restarts += 1;
      }
      const writer = all[victim % writers] as Writer;
      // Killed faster than it starts it would never write anything.
      const isVictim = !writer.isDone && writer.durable > writer.since;
      if (performance.now() - killedAtMs >= plan.killEveryMs && isVictim) {
        await writer.process.kill();
        look(writer);
        if (!writer.isDone) writer.process = start(victim % writers, writer.durable);
        writer.since = writer.durable;
        kills += 1;
        killedAtMs = performance.now();
      }
      victim += 1;
      return all.every(({ isDone }) => isDone);
    },
    { timeoutMs: limitMs, intervalMs: 20, what: "the writers" },
  ).finally(() => Promise.all(all.map(({ process }) => process.kill())));
  if (complaint !== undefined) throw new Error(complaint);
  return { kills, restarts };
}

/** What a writer has said so far. */
function look(writer: Writer): void {
  const output = writer.process.output();
  const said = [...output.matchAll(/^durable (\d+)$/gm)].at(-1)?.[1];
  writer.durable = Math.max(writer.durable, Number(said ?? 0));
  writer.isDone ||= output.includes("all written");
}
