/**
 * PgBouncer in transaction mode between the library and Postgres: sessions change hands after every transaction, and four of
 * them serve everybody. DESIGN, section 2, holds as without it; and nothing is left in a session.
 */
import { randomUUID } from "node:crypto";
import type { Server } from "node:http";
import type { AddressInfo } from "node:net";

import express from "express";
import pg from "pg";

import { createIdempotency, type Idempotency } from "../../src/index.js";
import { postgresStore } from "../../src/stores/postgres.js";
import { storeContract } from "../../src/testing.js";
import { advanceClock } from "../stores/open-stores.js";
import { createDatabase, type Database } from "../support/databases.js";
import { describeWithPgBouncer, type PgBouncer, startPgBouncer } from "../support/pgbouncer.js";
import { type PostgresServer, startPostgres } from "../support/postgres-server.js";
import { type ServerProcess, startServer } from "../support/server-process.js";
import { waitFor } from "../support/wait-for.js";
import { type Answer, newKey, outcome, post, retry } from "./client.js";
import { createShopDatabase } from "./shop.js";

const poolSize = 4;
const many = 50;
const pooler = "transaction" as const;

/** Defaults of a careless administrator, which every transaction of the store must overrule. */
const carelessDefaults = `
  ALTER ROLE postgres SET synchronous_commit = off;
  ALTER ROLE postgres SET default_transaction_isolation = 'repeatable read'`;
/** Notes under which settings each row of a key is written. */
const spy = `
  CREATE TABLE seen (durable text, isolation text, timeout text);
  CREATE FUNCTION spy() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO seen VALUES (current_setting('synchronous_commit'), current_setting('transaction_isolation'),
      current_setting('statement_timeout'));
    RETURN NULL;
  END $$;
  CREATE TRIGGER spy AFTER INSERT OR UPDATE ON idempotency_keys FOR EACH ROW EXECUTE FUNCTION spy()`;

describeWithPgBouncer("PgBouncer in transaction mode", () => {
  let postgres: PostgresServer;
  let bouncer: PgBouncer;
  let database: Database;
  let serverDatabase: Database;
  /** Straight to Postgres. */
  let direct: pg.Pool;
  /** By way of PgBouncer. */
  let pooled: pg.Pool;

  beforeAll(async () => {
    postgres = await startPostgres();
    database = await createShopDatabase(postgres.url);
    direct = database.pool;
    await direct.query(carelessDefaults);
    await direct.query(spy);
    serverDatabase = await createDatabase({ serverUrl: postgres.url });
    bouncer = await startPgBouncer({
      postgresPort: postgres.port,
      poolMode: "transaction",
      poolSize,
    });
    pooled = new pg.Pool({ connectionString: bouncer.via(database.url), max: 10 });
    pooled.on("error", () => undefined);
  });
  afterEach(async () => {
    await advanceClock(direct, 0);
  });
  afterAll(async () => {
    await pooled?.end();
    // Its sessions outlive its clients, and would be taken for forgotten connections.
    await bouncer?.end();
    await serverDatabase?.drop();
    await database?.drop();
    await postgres?.end();
  });

  describe("the store", () => {
    storeContract({
      test,
      open: () => {
        const [store, second] = [
          postgresStore({ pool: pooled, pooler }),
          postgresStore({ pool: pooled, pooler }),
        ];
        return {
          store,
          second,
          advance: (ms) => advanceClock(direct, ms),
          close: async () => {
            await Promise.all([store.close(), second.close()]);
          },
        };
      },
    });
  });

  describe("routes", () => {
    let shop: PooledShop;
    beforeEach(async () => {
      shop = await openShop(pooled);
    });
    afterEach(async () => {
      await shop.close();
    });

    test.each(["/plain", "/transaction", "/steps"])(
      "fifty equal requests to %s at once have one effect and one answer",
      async (path) => {
        const key = newKey();
        const call = { key, body: { a: 1 } };
        const answers = await Promise.all(
          Array.from({ length: many }, () => post(shop.url, path, call)),
        );
        const [made, ...others] = answers.filter(({ status }) => status === 201);
        if (made === undefined) throw new Error("nobody was answered 201");
        for (const other of others) expect(other.bytes.equals(made.bytes)).toBe(true);
        const refused = answers.filter(({ status }) => status !== 201).map(outcome);
        expect(refused).toEqual(refused.map(() => [409, "in_progress"]));
        await isReplayed(made, await retry(shop.url, path, call));
        expect(await effects(key)).toBe(1);
      },
    );

    test("a frozen steps request is finished by another process, and the first one writes nothing", async () => {
      const key = newKey();
      const call = { key, body: { hold: true } };
      const second = await openShop(pooled, { workers: true });
      try {
        const first = post(shop.url, "/steps", call);
        await waitFor(() => shop.held.has(key), { what: "the first process to be in its step" });
        await advanceClock(direct, 600_000);
        await waitFor(() => second.held.has(key), { what: "the completer of the second process" });
        second.open(key);
        const made = await retry(second.url, "/steps", call);
        expect(made.status).toBe(201);
        shop.open(key);
        // Its claim was lost while it was frozen: it may say "later" or the stored answer, and never one of its own.
        const late = await first;
        const own = late.status === 201 && !late.bytes.equals(made.bytes);
        expect([own, late.status === 201 || late.code === "in_progress"]).toEqual([false, true]);
        await isReplayed(made, await retry(shop.url, "/steps", call));
        expect(await effects(key)).toBe(1);
      } finally {
        shop.open(key);
        second.open(key);
        await second.close();
      }
    });
  });

  test("nothing is left in any session, and every row was written durably and read committed", async () => {
    const sessions = await Promise.all(Array.from({ length: poolSize }, () => pooled.connect()));
    try {
      // Transactions that are open at the same time have each a session of their own.
      const found = await Promise.all(
        sessions.map(async (session) => {
          await session.query("BEGIN");
          const { rows } = await session.query<Record<string, unknown>>(
            `SELECT pg_backend_pid() AS pid, (SELECT count(*)::int FROM pg_prepared_statements) AS prepared,
               current_setting('synchronous_commit') AS durable, current_setting('statement_timeout') AS timeout,
               current_setting('default_transaction_isolation') AS isolation`,
          );
          return rows[0];
        }),
      );
      expect(new Set(found.map((row) => row?.["pid"])).size).toBe(poolSize);
      for (const row of found)
        expect(row).toMatchObject({
          prepared: 0,
          durable: "off",
          timeout: "0",
          isolation: "repeatable read",
        });
    } finally {
      await Promise.all(sessions.map((session) => session.query("ROLLBACK")));
      for (const session of sessions) session.release();
    }
    const { rows } = await direct.query<{ durable: string; isolation: string }>(
      "SELECT DISTINCT durable, isolation FROM seen WHERE timeout <> '0'",
    );
    expect(rows).toEqual([{ durable: "on", isolation: "read committed" }]);
    expect((await direct.query("SELECT 1 FROM seen WHERE timeout = '0'")).rowCount).toBe(0);
  });

  describe("oncekey serve", () => {
    const servers: ServerProcess[] = [];
    const serve = async (): Promise<ServerProcess> => {
      const env = { DATABASE_URL: bouncer.via(serverDatabase.url), ONCEKEY_POOLER: pooler };
      const server = await startServer({ env });
      servers.push(server);
      return server;
    };
    afterEach(async () => {
      for (const server of servers.splice(0)) await server.kill();
    });
    const charge = (source: string) => ({ amount: 2000, currency: "eur", source });
    const countCharges = async (key: string): Promise<number | undefined> => {
      const { rows } = await serverDatabase.pool.query<{ count: number }>(
        "SELECT count(*)::int AS count FROM charges WHERE idempotency_key = $1",
        [key],
      );
      return rows[0]?.count;
    };

    test("fifty equal charges charge once", async () => {
      const server = await serve();
      const call = { key: newKey(), body: charge("tok_visa") };
      await Promise.all(Array.from({ length: many }, () => post(server.url, "/v1/charges", call)));
      const made = await retry(server.url, "/v1/charges", call);
      expect(made.status).toBe(201);
      await isReplayed(made, await retry(server.url, "/v1/charges", call));
      expect(await countCharges(call.key)).toBe(1);
    });

    test("fifty equal checkouts, with their steps and their messages, are paid once", async () => {
      const server = await serve();
      const body = {
        ...charge("tok_visa"),
        items: [{ sku: "mug", quantity: 1 }],
        amount: undefined,
      };
      const call = { key: newKey(), body };
      await Promise.all(
        Array.from({ length: many }, () => post(server.url, "/v1/checkouts", call)),
      );
      const made = await retry(server.url, "/v1/checkouts", call);
      expect(made.status).toBe(201);
      await isReplayed(made, await retry(server.url, "/v1/checkouts", call));
      const { rows } = await serverDatabase.pool.query(
        `SELECT (SELECT count(*)::int FROM checkouts) AS checkouts,
           (SELECT count(*)::int FROM idempotency_outbox WHERE key = $1) AS receipts`,
        [call.key],
      );
      expect(rows).toEqual([{ checkouts: 1, receipts: 1 }]);
    });

    test("a charge killed before its commit leaves nothing behind, and its retry makes it", async () => {
      const first = await serve();
      const key = newKey();
      const lost = post(first.url, "/v1/charges", { key, body: charge("tok_slow_10000") });
      lost.catch(() => undefined);
      await waitFor(async () => {
        const { rowCount } = await serverDatabase.pool.query(
          `SELECT 1 FROM pg_stat_activity WHERE datname = current_database()
              AND state = 'idle in transaction' AND query LIKE 'INSERT INTO charges%'`,
        );
        return rowCount === 1;
      });
      await first.kill();
      await expect(lost).rejects.toThrow();
      const second = await serve();
      const call = { key, body: charge("tok_visa") };
      const made = await retry(second.url, "/v1/charges", call);
      expect([made.status, made.headers["idempotent-replayed"]]).toEqual([201, undefined]);
      await isReplayed(made, await retry(second.url, "/v1/charges", call));
      expect(await countCharges(key)).toBe(1);
    });

    test("an order killed in its handler is an honest unknown", async () => {
      const first = await serve();
      const key = newKey();
      const call = {
        key,
        body: {
          currency: "eur",
          customer: "slow_10000",
          items: [{ sku: "mug", quantity: 1, unit_amount: 900 }],
        },
      };
      const lost = post(first.url, "/v1/orders", call);
      lost.catch(() => undefined);
      await waitFor(async () => {
        const { rowCount } = await serverDatabase.pool.query(
          "SELECT 1 FROM idempotency_keys WHERE key = $1 AND state = 'running'",
          [key],
        );
        return rowCount === 1;
      });
      await first.kill();
      await expect(lost).rejects.toThrow();
      const second = await serve();
      expect(outcome(await post(second.url, "/v1/orders", call))).toEqual([409, "in_progress"]);
      await serverDatabase.pool.query(
        "UPDATE idempotency_keys SET lease_until = clock_timestamp() WHERE key = $1",
        [key],
      );
      expect(outcome(await post(second.url, "/v1/orders", call))).toEqual([409, "outcome_unknown"]);
    });
  });

  async function effects(key: string): Promise<number | undefined> {
    const { rows } = await direct.query<{ count: number }>(
      "SELECT count(*)::int AS count FROM effects WHERE key = $1",
      [key],
    );
    return rows[0]?.count;
  }
});

async function isReplayed(made: Answer, replayed: Answer): Promise<void> {
  expect([replayed.status, replayed.headers["idempotent-replayed"]]).toEqual([201, "true"]);
  expect(replayed.bytes.equals(made.bytes)).toBe(true);
}

type PooledShop = {
  readonly url: string;
  /** Keys whose steps request waits in its second step. */
  readonly held: ReadonlySet<string>;
  open(key: string): void;
  close(): Promise<void>;
};

/** Three routes with one effect each, as a process of its own would have them. */
async function openShop(pool: pg.Pool, { workers = false } = {}): Promise<PooledShop> {
  const idempotent = createIdempotency({
    store: postgresStore({ pool, pooler }),
    scope: "global",
    workers,
  });
  const held = new Map<string, () => void>();
  const opened = new Set<string>();
  const app = express().use(express.json());
  mountRoutes(app, idempotent, pool, async (key) => {
    if (!opened.has(key)) await new Promise<void>((resolve) => held.set(key, resolve));
  });
  const server = await new Promise<Server>((resolve) => {
    const listening = app.listen(0, "127.0.0.1", () => resolve(listening));
  });
  const { port } = server.address() as AddressInfo;
  return {
    url: `http://127.0.0.1:${port}`,
    held: { has: (key: string) => held.has(key) } as ReadonlySet<string>,
    open: (key) => {
      opened.add(key);
      held.get(key)?.();
    },
    close: async () => {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
      await idempotent.close({ graceMs: 0 });
    },
  };
}

function mountRoutes(
  app: express.Express,
  idempotent: Idempotency,
  pool: pg.Pool,
  pass: (key: string) => Promise<void>,
): void {
  const effect = "INSERT INTO effects (key) VALUES ($1)";
  app.post("/plain", idempotent({ required: true }), async (req, res) => {
    await pool.query(effect, [req.idempotency?.key]);
    res.status(201).json({ id: randomUUID() });
  });
  app.post(
    "/transaction",
    idempotent.transaction(
      { required: true },
      async (req: express.Request, res: express.Response, tx: pg.PoolClient) => {
        await tx.query(effect, [req.idempotency?.key]);
        res.status(201).json({ id: randomUUID() });
      },
    ),
  );
  app.post(
    "/steps",
    idempotent.steps("work", async (request, steps) => {
      const id = await steps.transaction("make", async (tx) => {
        await tx.query(effect, [request.key]);
        return randomUUID();
      });
      if ((request.body as { hold?: boolean }).hold === true)
        await steps.call("wait", () => pass(request.key));
      await steps.send("made", { id });
      return { status: 201, body: { id } };
    }),
  );
}
