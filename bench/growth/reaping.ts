/**
 * The reaper under load. Keys come at a constant rate and are over soon, so that every second as many lose their response, and
 * as many go altogether, as are new; turns with the reaper at work and at rest alternate on one table.
 */
import { randomBytes } from "node:crypto";
import type pg from "pg";

import type { CacheableStore } from "../../src/core/ports.js";
import { startLoop } from "../../src/workers/loop.js";
import { systemClock } from "../../src/core/clock.js";
import { reapOnce } from "../../src/workers/reaper.js";
import { fill } from "./fill.js";
import { firstRuns, type LoadResult } from "./load.js";
import { drop, median, openTable, type Ground } from "./suites.js";

export interface Turn extends LoadResult {
  readonly forgotten: number;
  readonly deleted: number;
}
export interface ReapingResult {
  /** Of one process that does nothing else, in rows a second. */
  readonly alone: { readonly forgottenPerSecond: number; readonly deletedPerSecond: number };
  /** Keys a second that nothing else was asked for. */
  readonly mostPerSecond: number;
  readonly rates: readonly {
    readonly rate: number;
    readonly without: readonly Turn[];
    readonly with: readonly Turn[];
    readonly p50Ratio: number;
    readonly p99Ratio: number;
    /** Rows removed for each key that came, of two that are needed. */
    readonly removedPerKey: number;
    /** Of the table with its indexes after each turn with the reaper, and what of its rows is dead. */
    readonly megabytes: readonly number[];
    readonly deadShare: readonly number[];
  }[];
}

const body = randomBytes(225);
/** Rows of other keys that are not over, around which the reaper works. */
const standing = 200_000;
/** So that the reaper finds work in every turn, however long the bench takes. */
const backlog = 200_000;

export async function reaping(ground: Ground): Promise<ReapingResult> {
  const { pool } = ground;
  const table = await openTable(pool, "reaping");
  try {
    await fill(pool, table.schema, { rows: standing, keys: "random", bodyBytes: 300 });
    const order = { ...ground, keys: "random" as const, body };
    await firstRuns(table.store, { ...order, seconds: 2 });
    const most = await firstRuns(table.store, order);
    const rates = [];
    for (const share of [0.25, 0.5])
      rates.push(await atRate(ground, table, Math.round((most.perSecond * share) / 100) * 100));
    return { alone: await alone(pool, table), mostPerSecond: most.perSecond, rates };
  } finally {
    await drop(pool, table);
  }
}

type Table = Awaited<ReturnType<typeof openTable>>;

/** Windows of the keys that come: over within the turn after the one that they were made in. */
const shortWindows = { replayWindowMs: 2_000, dedupeWindowMs: 4_000 };

async function atRate(
  ground: Ground,
  { schema, store }: Table,
  rate: number,
): Promise<ReapingResult["rates"][number]> {
  const { pool, seconds } = ground;
  const order = { keys: "random" as const, body, seconds, concurrency: 500, rate };
  const turns: { without: Turn[]; with: Turn[] } = { without: [], with: [] };
  const megabytes: number[] = [];
  const deadShare: number[] = [];
  for (let round = 0; round < ground.rounds; round += 1) {
    const resting = await firstRuns(store, { ...order, windows: shortWindows });
    turns.without.push({ ...resting, forgotten: 0, deleted: 0 });
    turns.with.push(
      await withReaper(store, () => firstRuns(store, { ...order, windows: shortWindows })),
    );
    const state = await stateOf(pool, schema);
    megabytes.push(state.megabytes);
    deadShare.push(state.deadShare);
  }
  const ratios = (read: (turn: Turn) => number): number =>
    median(turns.with.map((turn, index) => read(turn) / read(turns.without[index] as Turn)));
  const sum = (read: (turn: Turn) => number): number =>
    turns.with.reduce((total, turn) => total + read(turn), 0);
  return {
    rate,
    ...turns,
    p50Ratio: ratios(({ claim }) => claim.p50),
    p99Ratio: ratios(({ claim }) => claim.p99),
    removedPerKey:
      sum(({ forgotten, deleted }) => forgotten + deleted) / sum((turn) => turn.operations),
    megabytes,
    deadShare,
  };
}

/** The reaper as an instance runs it, without the pause before its first look. */
async function withReaper(store: CacheableStore, work: () => Promise<LoadResult>): Promise<Turn> {
  const counts = { forgotten: 0, deleted: 0 };
  const stop = startLoop({
    clock: systemClock,
    idleMs: 20,
    runOnce: () =>
      reapOnce(store, (event) => {
        if (event.type !== "reaped") return;
        counts.forgotten += event.forgotten;
        counts.deleted += event.deleted;
      }),
    onError: (error) => {
      throw error;
    },
  });
  const result = await work();
  await stop();
  return { ...result, ...counts };
}

async function stateOf(
  pool: pg.Pool,
  schema: string,
): Promise<{ megabytes: number; deadShare: number }> {
  const { rows } = await pool.query<{ megabytes: number; deadShare: number }>(
    `SELECT pg_total_relation_size(relid)::float8 / 1e6 AS megabytes,
       (n_dead_tup / greatest(n_live_tup + n_dead_tup, 1)::float8) AS "deadShare"
     FROM pg_stat_user_tables WHERE schemaname = $1 AND relname = 'idempotency_keys'`,
    [schema],
  );
  return rows[0] ?? { megabytes: Number.NaN, deadShare: Number.NaN };
}

/** Makes `backlog` keys over and removes them, batch after batch: their responses, then the keys. */
async function alone(pool: pg.Pool, { schema, store }: Table): Promise<ReapingResult["alone"]> {
  await pool.query(`TRUNCATE ${schema}.idempotency_keys CASCADE`);
  await fill(pool, schema, { rows: backlog, keys: "random", bodyBytes: 300 });
  const end = async (window: "replay_until" | "dedupe_until"): Promise<void> => {
    await pool.query(
      `UPDATE ${schema}.idempotency_keys SET replay_until = replay_until - interval '40 days',
         ${window === "dedupe_until" ? "dedupe_until = dedupe_until - interval '40 days'," : ""}
         reap_at = ${window} - interval '40 days'`,
    );
    await pool.query(`VACUUM (ANALYZE) ${schema}.idempotency_keys`);
  };
  const perSecond = async (): Promise<number> => {
    const startedMs = performance.now();
    let removed = 0;
    const count = (event: { type: string; forgotten?: number; deleted?: number }): void => {
      removed += (event.forgotten ?? 0) + (event.deleted ?? 0);
    };
    while (await reapOnce(store, count));
    return (removed * 1_000) / (performance.now() - startedMs);
  };
  await end("replay_until");
  const forgottenPerSecond = await perSecond();
  await end("dedupe_until");
  return { forgottenPerSecond, deletedPerSecond: await perSecond() };
}
