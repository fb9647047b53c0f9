/**
 * What is measured. Each suite takes its turns within one run: the table that is full against one that is empty, the reaper at
 * work against the reaper at rest, one layout against another.
 */
import { randomBytes } from "node:crypto";
import type pg from "pg";

import type { CacheableStore } from "../../src/core/ports.js";
import type { KeyRef } from "../../src/core/record.js";
import { migrate, postgresStore } from "../../src/stores/postgres.js";
import { fill, weigh, type Filling, type Weight } from "./fill.js";
import { cpuOf } from "../http/processes.js";
import { firstRuns, replays, type FirstRuns, type Latency, type LoadResult } from "./load.js";

export interface Ground {
  readonly pool: pg.Pool;
  readonly postgresPid: number;
  readonly seconds: number;
  readonly rounds: number;
  readonly concurrency: number;
}

interface Table {
  readonly schema: string;
  readonly store: CacheableStore;
}

const body = randomBytes(225).toString("base64");

export async function openTable(pool: pg.Pool, schema: string): Promise<Table> {
  await pool.query(`DROP SCHEMA IF EXISTS ${schema} CASCADE`);
  await migrate({ pool, schema });
  return { schema, store: postgresStore({ pool, schema, timeoutMs: 30_000 }) };
}

async function truncate(pool: pg.Pool, schema: string): Promise<void> {
  await pool.query(`TRUNCATE ${schema}.idempotency_keys CASCADE`);
}

export async function drop(pool: pg.Pool, { schema, store }: Table): Promise<void> {
  await store.close();
  await pool.query(`DROP SCHEMA ${schema} CASCADE`);
}

export function median(values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)] ?? Number.NaN;
}

/** A turn with what it cost the server: write-ahead log and CPU time an operation. */
export interface Turn extends LoadResult {
  readonly walBytes: number;
  readonly serverMicroseconds: number;
}

async function turn(ground: Ground, table: Table, order: FirstRuns): Promise<Turn> {
  const written = async (): Promise<number> => {
    const { rows } = await ground.pool.query<{ bytes: number }>(
      "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::float8 AS bytes",
    );
    return rows[0]?.bytes ?? Number.NaN;
  };
  const [walBefore, cpuBefore] = [await written(), cpuOf(ground.postgresPid)];
  const result = await firstRuns(table.store, order);
  return {
    ...result,
    walBytes: ((await written()) - walBefore) / result.operations,
    serverMicroseconds: ((cpuOf(ground.postgresPid) - cpuBefore) * 1e6) / result.operations,
  };
}

export interface GrowthRow extends Filling {
  readonly fillSeconds: number;
  readonly weight: Weight;
  /** Claims and completions a second on the empty table and on the full one, a round each. */
  readonly empty: readonly Turn[];
  readonly full: readonly Turn[];
  /**
   * Medians of the ratios within a round: of all, and of the second half. The run begins with a checkpoint, after which the
   * first write to each page logs the whole page; a server in use has a checkpoint every few minutes and not every few seconds.
   */
  readonly ratio: number;
  readonly settledRatio: number;
  readonly replay: { readonly perSecond: number; readonly find: Latency };
}

/** First runs on an empty table and on a full one, in turns; replays of what is stored; bytes a key. */
export async function growth(ground: Ground, filling: Filling): Promise<GrowthRow> {
  const { pool } = ground;
  const [none, many] = [await openTable(pool, "growth_none"), await openTable(pool, "growth_many")];
  try {
    const startedMs = performance.now();
    await fill(pool, many.schema, filling);
    const fillSeconds = (performance.now() - startedMs) / 1_000;
    const weight = await weigh(pool, many.schema);
    const refs = await sample(pool, many.schema);
    const order = { ...ground, keys: filling.keys, body: Buffer.from(body) };
    const [empty, full]: [Turn[], Turn[]] = [[], []];
    for (const table of [none, many]) await firstRuns(table.store, { ...order, seconds: 1 });
    for (let round = 0; round < ground.rounds; round += 1) {
      await truncate(pool, none.schema);
      empty.push(await turn(ground, none, order));
      full.push(await turn(ground, many, order));
    }
    const ratios = full.map(
      ({ perSecond }, index) => perSecond / (empty[index]?.perSecond ?? Number.NaN),
    );
    return {
      ...filling,
      fillSeconds,
      weight,
      empty,
      full,
      ratio: median(ratios),
      settledRatio: median(ratios.slice(Math.floor(ratios.length / 2))),
      replay: await replays(many.store, refs, ground),
    };
  } finally {
    await drop(pool, none);
    await drop(pool, many);
  }
}

/** Keys from all over the table, in no order. */
async function sample(pool: pg.Pool, schema: string): Promise<KeyRef[]> {
  const { rows } = await pool.query<KeyRef>(
    `SELECT scope, key FROM ${schema}.idempotency_keys TABLESAMPLE SYSTEM (5) ORDER BY random() LIMIT 100000`,
  );
  return rows;
}

/** Another layout is this one, changed by a statement. */
const layouts: Readonly<Record<string, (schema: string) => string>> = {
  "as it is": () => "SELECT 1",
  "only the primary key": (schema) => onlyThePrimaryKey(schema),
  "only the primary key, fillfactor 50": (schema) =>
    `${onlyThePrimaryKey(schema)}; ALTER TABLE ${schema}.idempotency_keys SET (fillfactor = 50)`,
  "8 hash partitions": partitioned,
};

/** Bounds what updates that touch no index (HOT) could gain: the partial indexes know \`state\`, which a completion changes. */
function onlyThePrimaryKey(schema: string): string {
  return `DROP INDEX ${schema}.idempotency_keys_reap; DROP INDEX ${schema}.idempotency_keys_unfinished`;
}

function partitioned(schema: string): string {
  const table = `${schema}.idempotency_keys`;
  const parts = Array.from(
    { length: 8 },
    (_, part) =>
      `CREATE TABLE ${table}_${part} PARTITION OF ${table} FOR VALUES WITH (MODULUS 8, REMAINDER ${part});`,
  );
  return `DROP TABLE ${schema}.idempotency_steps; ALTER TABLE ${table} RENAME TO one;
    CREATE TABLE ${table} (LIKE ${schema}.one INCLUDING ALL) PARTITION BY HASH (scope, key); ${parts.join("")}
    DROP TABLE ${schema}.one`;
}

export interface LayoutRow {
  readonly layout: string;
  readonly runs: readonly LoadResult[];
  /** To the first layout, of the same round. */
  readonly ratio: number;
  /** Share of the updates that touched no index. */
  readonly hotShare: number;
  /** Before anything was vacuumed, as a table is in use. */
  readonly weight: Weight;
}

/** First runs on tables of several layouts, in turns. */
export async function compareLayouts(ground: Ground): Promise<LayoutRow[]> {
  const { pool } = ground;
  const names = Object.keys(layouts);
  const tables: Table[] = [];
  const runs: LoadResult[][] = names.map(() => []);
  for (const [index, name] of names.entries()) {
    const table = await openTable(pool, `layout_${index}`);
    tables.push(table);
    await pool.query((layouts[name] as (schema: string) => string)(table.schema));
  }
  const order = { ...ground, keys: "random" as const, body: Buffer.from(body) };
  for (let round = 0; round < ground.rounds; round += 1)
    for (const [index, { store }] of tables.entries())
      runs[index]?.push(await firstRuns(store, order));
  const rows: LayoutRow[] = [];
  for (const [index, table] of tables.entries()) {
    const mine = runs[index] as LoadResult[];
    const ratios = mine.map(
      ({ perSecond }, round) => perSecond / (runs[0]?.[round]?.perSecond ?? 0),
    );
    rows.push({
      layout: names[index] as string,
      runs: mine,
      ratio: median(ratios),
      hotShare: await hotShare(pool, table.schema),
      weight: await weigh(pool, table.schema),
    });
    await drop(pool, table);
  }
  return rows;
}

async function hotShare(pool: pg.Pool, schema: string): Promise<number> {
  const { rows } = await pool.query<{ share: number }>(
    `SELECT coalesce(sum(n_tup_hot_upd) / nullif(sum(n_tup_upd), 0), 0)::float8 AS share FROM pg_stat_user_tables
     WHERE schemaname = $1 AND relname LIKE 'idempotency_keys%'`,
    [schema],
  );
  return rows[0]?.share ?? 0;
}
