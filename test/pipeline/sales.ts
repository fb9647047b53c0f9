/** A table of events and the daily revenue of its merchants, for the tests of aggregates. */
import type pg from "pg";

import { type Aggregate, recomputeAggregate } from "../../src/pipeline/aggregate.js";
import type { AggregateOptions } from "../../src/pipeline/aggregate-options.js";
import { migrate } from "../../src/stores/postgres.js";

export const salesTables = `
  create table merchants (merchant_id text primary key, time_zone text not null);
  create table sales (
    event_id text primary key, merchant_id text, amount bigint not null, occurred_at timestamptz not null);
  create table revenue (
    merchant_id text, day date, amount bigint not null, events bigint not null, primary key (merchant_id, day));`;

export function revenueOptions(pool: pg.Pool): AggregateOptions {
  return {
    pool,
    source: "sales",
    target: "revenue",
    key: ["merchant_id"],
    day: {
      column: "day",
      of: "occurred_at",
      timeZone: { table: "merchants", on: ["merchant_id"], column: "time_zone" },
    },
    values: { amount: "sum(amount)", events: "count(*)" },
  };
}

export async function prepareSales(pool: pg.Pool): Promise<void> {
  await migrate({ pool });
  await pool.query(salesTables);
  await recomputeAggregate(revenueOptions(pool)).prepare();
}

type Db = Pick<pg.Pool | pg.PoolClient, "query">;

/** Writes an event as a sink does. */
export async function sell(
  db: Db,
  id: string,
  merchant: string,
  amount: number,
  at = "2026-03-01T12:00:00Z",
): Promise<void> {
  await db.query(
    `insert into sales values ($1, $2, $3, $4) on conflict (event_id) do update
     set merchant_id = excluded.merchant_id, amount = excluded.amount, occurred_at = excluded.occurred_at`,
    [id, merchant, amount, at],
  );
}

/** `m1 2026-03-01 30/2`: merchant, day, amount and number of events. */
export async function revenueRows(db: Db): Promise<string[]> {
  const { rows } = await db.query<{ line: string }>(
    "select concat(merchant_id, ' ', day, ' ', amount, '/', events) as line from revenue order by 1",
  );
  return rows.map(({ line }) => line);
}

/** What a plain GROUP BY says. */
export async function trueRows(db: Db): Promise<string[]> {
  const { rows } = await db.query<{ line: string }>(
    `select concat(merchant_id, ' ', day, ' ', sum(amount), '/', count(*)) as line
     from (select s.*, (occurred_at at time zone coalesce(time_zone, 'UTC'))::date as day
           from sales s left join merchants using (merchant_id)) s
     where merchant_id is not null group by merchant_id, day order by 1`,
  );
  return rows.map(({ line }) => line);
}

export async function countMarks(db: Db): Promise<number> {
  const { rows } = await db.query<{ count: number }>(
    "select count(*)::int as count from idempotency_dirty_keys",
  );
  return rows[0]?.count ?? 0;
}

/** Computes until nothing is marked. */
export async function settle(aggregate: Aggregate): Promise<void> {
  while ((await aggregate.recomputeMarked()).hasMore);
}
