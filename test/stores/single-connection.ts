/** Transactions on pools of one connection, so that each meets what the last one left on it. */
import pg from "pg";

import type { CacheableStore, CommitAnswer, OpenTransaction } from "../../src/core/ports.js";
import type { Claim, KeyRef } from "../../src/core/record.js";
import type { Isolation } from "../../src/core/sql-session.js";
import { postgresStore } from "../../src/stores/postgres.js";
import { waitFor } from "../support/wait-for.js";
import { created, newRequest, useMigratedDatabase, windows } from "./open-stores.js";

export const completion = { response: created, ...windows };

export type Begun = {
  readonly claim: Claim;
  readonly open: OpenTransaction;
  readonly tx: pg.PoolClient;
};
export type Ground = { readonly pool: pg.Pool; readonly store: CacheableStore };

export interface Single {
  readonly url: string;
  /** A store on a pool of one connection, closed after the test. */
  ground(config?: pg.PoolConfig & { pipeline?: boolean }, options?: object): Ground;
  /** Called after the test, last one first. */
  closeLater(close: () => Promise<unknown>): void;
  orders(of: KeyRef): Promise<number>;
  stateOfKey(of: KeyRef): Promise<string | undefined>;
  /** Waits until no session but the asking one is in a transaction. */
  untilNothingIsOpen(): Promise<void>;
}

export function useSingleConnections(): Single {
  const database = useMigratedDatabase();
  const closers: (() => Promise<unknown>)[] = [];
  beforeAll(() => database.pool.query("CREATE TABLE orders (id text)"));
  afterEach(async () => {
    for (let close = closers.pop(); close !== undefined; close = closers.pop()) await close();
  });
  return {
    get url() {
      return database.url;
    },
    ground: (config = {}, options = {}) => {
      const pool = new pg.Pool({ connectionString: database.url, max: 1, ...config });
      pool.on("error", () => undefined);
      const store = postgresStore({ pool, ...options });
      closers.push(async () => {
        await store.close();
        await pool.end();
      });
      return { pool, store };
    },
    closeLater: (close) => void closers.push(close),
    orders: async ({ scope }) => {
      const { rows } = await database.pool.query("SELECT FROM orders WHERE id = $1", [scope]);
      return rows.length;
    },
    stateOfKey: async ({ scope }) => {
      const { rows } = await database.pool.query<{ state: string }>(
        "SELECT state FROM idempotency_keys WHERE scope = $1",
        [scope],
      );
      return rows[0]?.state;
    },
    untilNothingIsOpen: async () => {
      await waitFor(async () => {
        const { rows } = await database.pool.query(
          `SELECT FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
             AND xact_start IS NOT NULL`,
        );
        return rows.length === 0;
      });
    },
  };
}

export async function begin(
  store: CacheableStore,
  ref: KeyRef,
  timeoutMs = 10_000,
  isolation: Isolation = "read committed",
): Promise<Begun> {
  const request = newRequest(ref, { guarantee: "transaction" });
  const answer = await store.transactions?.claim(request, { timeoutMs, isolation });
  if (answer?.kind !== "claimed") throw new Error(`claimed was expected, ${answer?.kind} came`);
  return { ...answer, tx: answer.open.tx as pg.PoolClient };
}

export function insertOrder(tx: pg.PoolClient, { scope }: KeyRef): Promise<unknown> {
  return tx.query("INSERT INTO orders VALUES ($1)", [scope]);
}

/** A whole transaction that writes one order. */
export async function order(store: CacheableStore, ref: KeyRef): Promise<CommitAnswer> {
  const { claim, open, tx } = await begin(store, ref);
  await insertOrder(tx, ref);
  return open.complete(claim, completion);
}

export function causeOf(answer: CommitAnswer): unknown {
  return answer.kind === "rolled_back" ? answer.cause : undefined;
}
