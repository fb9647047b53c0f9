/** The shop program as a process, and what its tests look at in Postgres. */
import pg from "pg";

import { migrate } from "../../src/stores/postgres.js";
import { createDatabase, type Database } from "../support/databases.js";
import { type RunningProcess, startProgram } from "../support/server-process.js";
import type { Gate } from "./gate.js";

export type Shop = RunningProcess & { readonly url: string };

export type ShopSettings = {
  /** Direct, or by way of a proxy. */
  databaseUrl: string;
  gate: Gate;
  redisUrl?: string;
  storeTimeoutMs?: number;
  connectTimeoutMs?: number;
  poolSize?: number;
  transactionTimeoutMs?: number;
  idempotency?: {
    leaseMs?: number;
    heartbeatMs?: number;
    claimTimeoutMs?: number;
    nearCache?: false;
    completeTimeoutMs?: number;
  };
};

export async function startShop({ gate, ...settings }: ShopSettings): Promise<Shop> {
  const program = startProgram("test/faults/programs/shop.ts", {
    env: { SHOP: JSON.stringify({ ...settings, gateUrl: gate.url }) },
  });
  const [, port] = await program.waitForOutput(/^ready (\d+) /m);
  return { ...program, url: `http://127.0.0.1:${port}` };
}

/** A database with the tables of the library, and one that transaction routes write to. */
export function createShopDatabase(serverUrl?: string): Promise<Database> {
  return createDatabase({
    ...(serverUrl === undefined ? {} : { serverUrl }),
    prepare: async (pool) => {
      await migrate({ pool });
      // No unique key: two effects of one key must be seen and not be refused.
      await pool.query("CREATE TABLE effects (key text NOT NULL)");
    },
  });
}

/** How often the work of a transaction route was committed. */
export async function countEffects(pool: pg.Pool, key: string): Promise<number> {
  const { rows } = await pool.query<{ count: number }>(
    "SELECT count(*)::int AS count FROM effects WHERE key = $1",
    [key],
  );
  return rows[0]?.count ?? 0;
}

/** Undefined where the key has no row that others can see. */
export async function stateOf(pool: pg.Pool, key: string): Promise<string | undefined> {
  const { rows } = await pool.query<{ state: string }>(
    "SELECT state FROM idempotency_keys WHERE key = $1",
    [key],
  );
  return rows[0]?.state;
}

/** Moves the clock that leases and windows are judged by, ahead of the real one. */
export async function moveClock(pool: pg.Pool, aheadMs: number): Promise<void> {
  await pool.query(
    `CREATE OR REPLACE FUNCTION idempotency_now() RETURNS timestamptz LANGUAGE sql VOLATILE
       AS $$SELECT clock_timestamp() + interval '${Math.round(aheadMs)} milliseconds'$$`,
  );
}
