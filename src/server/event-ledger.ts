/**
 * The books of events: what was earned by whom, and what it comes to each day. Owns: their tables and the description of the daily
 * revenue. Knows nothing of uploads.
 */
import type { Pool } from "pg";
import { recomputeAggregate } from "../pipeline.js";
import type { Aggregate, AggregateKey } from "../pipeline.js";
import type { Account } from "./config.js";

/**
 * The id stands first in the key, since it tells rows apart at once and those of one tenant are alike in the rest. A block range
 * index costs a load next to nothing, where a second tree would cost a third of it; it finds a day among events that come about in
 * the order of their times.
 */
export const eventTables = `
  CREATE TABLE IF NOT EXISTS events (
    event_id text COLLATE "C" NOT NULL,
    account text COLLATE "C" NOT NULL,
    livemode boolean NOT NULL,
    merchant_id text COLLATE "C" NOT NULL,
    amount bigint NOT NULL,
    currency text COLLATE "C" NOT NULL,
    occurred_at timestamptz NOT NULL,
    version bigint NOT NULL,
    PRIMARY KEY (event_id, account, livemode)
  );
  CREATE INDEX IF NOT EXISTS events_by_time ON events USING brin (occurred_at) WITH (autosummarize = on);
  CREATE TABLE IF NOT EXISTS merchants (
    account text COLLATE "C" NOT NULL,
    livemode boolean NOT NULL,
    merchant_id text COLLATE "C" NOT NULL,
    time_zone text NOT NULL,
    PRIMARY KEY (account, livemode, merchant_id)
  );
  CREATE TABLE IF NOT EXISTS revenue_daily (
    account text COLLATE "C" NOT NULL,
    livemode boolean NOT NULL,
    merchant_id text COLLATE "C" NOT NULL,
    currency text COLLATE "C" NOT NULL,
    date date NOT NULL,
    amount numeric NOT NULL,
    events bigint NOT NULL,
    PRIMARY KEY (account, livemode, merchant_id, date, currency)
  );`;

/** Where events go, as a sink is told. */
export const eventSink = {
  table: "events",
  key: ["event_id", "account", "livemode"],
  columns: [
    "event_id",
    "account",
    "livemode",
    "merchant_id",
    "amount",
    "currency",
    "occurred_at",
    "version",
  ],
  onDuplicate: "overwrite",
  version: "version",
} as const;

/** Each merchant's revenue of each day of its own, apart for each currency. */
export function dailyRevenue(pool: Pool): Aggregate {
  return recomputeAggregate({
    pool,
    source: "events",
    target: "revenue_daily",
    key: ["account", "livemode", "merchant_id", "currency"],
    day: {
      column: "date",
      of: "occurred_at",
      timeZone: {
        table: "merchants",
        on: ["account", "livemode", "merchant_id"],
        column: "time_zone",
      },
    },
    values: { amount: "sum(amount)", events: "count(*)" },
    // One look at the events of a day serves all its merchants.
    batchKeys: 5_000,
  });
}

/** The key's part that says whose it is. */
export function ownerKey(account: Account, merchantId?: string): AggregateKey {
  return {
    account: account.id,
    livemode: account.livemode,
    ...(merchantId === undefined ? {} : { merchant_id: merchantId }),
  };
}

/** A range of days as it is asked for; what is missing is filled in. */
export interface DayRange {
  readonly from: string | undefined;
  readonly to: string | undefined;
}

export interface Revenue {
  readonly timeZone: string;
  readonly from: string;
  readonly to: string;
  /** A JSON text: sums can be larger than a double holds. */
  readonly days: string;
}

/** A merchant's zone, and its range of days: up to today, thirty of them. */
export async function rangeOf(
  pool: Pool,
  account: Account,
  merchantId: string,
  { from, to }: DayRange,
): Promise<Omit<Revenue, "days">> {
  const result = await pool.query<{ time_zone: string; from: string; to: string }>(
    `SELECT z.time_zone, to_char(coalesce($4::date, r.to - 29), 'YYYY-MM-DD') AS from,
       to_char(r.to, 'YYYY-MM-DD') AS to
     FROM (SELECT coalesce(
       (SELECT m.time_zone FROM merchants m WHERE m.account = $1 AND m.livemode = $2 AND m.merchant_id = $3),
       'UTC') AS time_zone) z,
     LATERAL (SELECT coalesce($5::date, (clock_timestamp() AT TIME ZONE z.time_zone)::date) AS to) r`,
    [account.id, account.livemode, merchantId, from ?? null, to ?? null],
  );
  const row = result.rows[0] as { time_zone: string; from: string; to: string };
  return { timeZone: row.time_zone, from: row.from, to: row.to };
}

/** Reads what was computed; computing is the caller's affair. */
export async function readRevenue(
  pool: Pool,
  account: Account,
  merchantId: string,
  range: { readonly from: string; readonly to: string },
): Promise<string> {
  const result = await pool.query<{ days: string }>(
    `SELECT coalesce(json_agg(json_build_object(
         'date', r.date, 'currency', r.currency, 'amount', r.amount, 'events', r.events)
       ORDER BY r.date, r.currency), '[]')::text AS days
     FROM revenue_daily r
     WHERE r.account = $1 AND r.livemode = $2 AND r.merchant_id = $3 AND r.date BETWEEN $4 AND $5`,
    [account.id, account.livemode, merchantId, range.from, range.to],
  );
  return (result.rows[0] as { days: string }).days;
}

/** Sets a merchant's zone; its days are computed anew. `unknown_zone`: Postgres has no such zone, and nothing was changed. */
export async function setTimeZone(
  pool: Pool,
  revenue: Aggregate,
  account: Account,
  merchantId: string,
  timeZone: string,
): Promise<"ok" | "unknown_zone"> {
  const known = await pool.query("SELECT FROM pg_timezone_names WHERE name = $1", [timeZone]);
  if (known.rowCount === 0) return "unknown_zone";
  await revenue.changeTimeZone(ownerKey(account, merchantId), (tx) =>
    tx.query(
      `INSERT INTO merchants (account, livemode, merchant_id, time_zone) VALUES ($1, $2, $3, $4)
       ON CONFLICT (account, livemode, merchant_id) DO UPDATE SET time_zone = excluded.time_zone`,
      [account.id, account.livemode, merchantId, timeZone],
    ),
  );
  return "ok";
}
