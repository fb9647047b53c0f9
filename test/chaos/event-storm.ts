/**
 * Writers of one table that are killed with -9 and started again, over a server that is restarted: afterwards every event must be
 * there once. Owns: the faults and the reckoning.
 */
import pg from "pg";

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
  /** Of all rows in the order of their ids. */
  readonly checksum: string;
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
  await pool.query(`CREATE TABLE IF NOT EXISTS ${table} (
    id uuid PRIMARY KEY, n int NOT NULL, version int NOT NULL, amount bigint NOT NULL, merchant text NOT NULL)`);
  const startedMs = performance.now();
  const { kills, restarts } = await write(plan);
  const durationMs = Math.round(performance.now() - startedMs);
  const { rows } = await pool.query<{
    rows: string;
    amounts: string;
    weighted: string;
    checksum: string;
  }>(
    `SELECT count(*) AS rows, sum(amount) AS amounts, sum(amount * (n % 1009)) AS weighted,
       md5(string_agg(md5(t::text), '' ORDER BY id)) AS checksum FROM ${table} t`,
  );
  await pool.end();
  const [row] = rows;
  return {
    kills,
    restarts,
    durationMs,
    expected: expectedSums(plan.events, plan.mode),
    found: {
      rows: Number(row?.rows),
      amounts: Number(row?.amounts),
      weighted: Number(row?.weighted),
    },
    checksum: row?.checksum ?? "",
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
