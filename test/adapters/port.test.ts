/** The port itself, by sources of transactions that behave as badly as one can. */
import express from "express";
import type { PoolClient } from "pg";
import pg from "pg";
import request from "supertest";

import { createIdempotency } from "../../src/index.js";
import type { HttpRequest, Idempotency, SqlSession, TransactionAdapter } from "../../src/index.js";
import { heldTransactions, listenForLoss } from "../../src/stores/held-session.js";
import { openPoolSession } from "../../src/stores/pool-session.js";
import { migrate, postgresStore } from "../../src/stores/postgres.js";
import { createDatabase } from "../support/databases.js";
import type { Database } from "../support/databases.js";
import { waitFor } from "../support/wait-for.js";

let database: Database;
let elsewhere: Database;
let idempotent: Idempotency;

const prepare = async (pool: pg.Pool): Promise<void> => {
  await migrate({ pool });
  await pool.query("CREATE TABLE orders (id serial PRIMARY KEY, note text)");
};

beforeAll(async () => {
  [database, elsewhere] = await Promise.all([
    createDatabase({ prepare }),
    createDatabase({ prepare }),
  ]);
  const store = postgresStore({ pool: database.pool });
  idempotent = createIdempotency({ store, scope: "global", workers: false });
});
afterAll(async () => {
  await idempotent.close();
  await Promise.all([database.drop(), elsewhere.drop()]);
});

/** The pool's own sessions, with something of them replaced. */
function changed(
  change: (session: SqlSession<PoolClient>) => Partial<SqlSession<PoolClient>>,
  pool = database.pool,
): TransactionAdapter<PoolClient> {
  return {
    open: async (settings) => {
      const { session } = await openPoolSession(pool, true, settings, []);
      return { ...session, ...change(session) };
    },
  };
}

function send(
  using: TransactionAdapter<PoolClient>,
  key: string,
  transactionTimeoutMs = 5_000,
): request.Test {
  const api = express();
  api.use(express.json());
  api.post(
    "/orders",
    idempotent.transaction<HttpRequest>({ using, transactionTimeoutMs }, async (_req, res, tx) => {
      await tx.query("INSERT INTO orders (note) VALUES ($1)", [key]);
      res.status(201).json({});
    }),
  );
  api.use(((error: { code?: string }, _req, res, _next) => {
    res.status(500).json({ code: error.code });
  }) satisfies express.ErrorRequestHandler);
  return request(api).post("/orders").set("Idempotency-Key", key).send({});
}

async function count(key: string, pool = database.pool): Promise<number> {
  return (await pool.query("SELECT FROM orders WHERE note = $1", [key])).rowCount ?? 0;
}

test("a source that takes the COMMIT of an aborted transaction for one is not believed", async () => {
  const using = changed((session) => ({
    commit: async () => {
      const broken = { name: "broken", text: "SELECT 1 / 0" };
      await session.query(broken, []).catch(() => undefined);
      const end = await session.commit();
      expect(end.kind).toBe("rolled_back");
      return { kind: "unconfirmed" };
    },
  }));
  const response = await send(using, "aborted-at-the-end");
  expect([response.status, response.body.code]).toEqual([500, "transaction_failed"]);
  expect(await count("aborted-at-the-end")).toBe(0);
});

test("a source that cannot say is asked about on the store's own connection", async () => {
  const untold = changed((session) => ({
    commit: async () => {
      await session.commit();
      return { kind: "unconfirmed" };
    },
  }));
  const first = await send(untold, "untold");
  expect(first.status).toBe(201);
  expect(Date.parse(String(first.headers["idempotency-expires"]))).toBeGreaterThan(Date.now());
  const lost = changed((session) => ({
    commit: async () => {
      await session.commit();
      return { kind: "unknown", cause: new Error("the line is dead") };
    },
  }));
  expect((await send(lost, "lost")).status).toBe(201);
  expect((await send(lost, "lost")).headers["idempotent-replayed"]).toBe("true");
});

test("transactions on another database than the store's are refused, before a handler runs", async () => {
  const using = changed(() => ({}), elsewhere.pool);
  const response = await send(using, "in-another-database");
  expect([response.status, response.body.code]).toEqual([500, "options_invalid"]);
  expect(response.body.detail).toContain("another database than the store");
  expect(await count("in-another-database", elsewhere.pool)).toBe(0);
  const left = await elsewhere.pool.query("SELECT FROM idempotency_keys");
  expect(left.rowCount).toBe(0);
});

test("a callback that is called too late ends at once, and nothing of it is left", async () => {
  let open: () => void = () => undefined;
  const gate = new Promise<void>((resolve) => (open = resolve));
  let end: "committed" | "rolled back" | undefined;
  const using = heldTransactions<PoolClient>({
    begin: async (work) => {
      await gate;
      const client = await database.pool.connect();
      try {
        await client.query("BEGIN");
        await work(client);
        await client.query("COMMIT");
        end = "committed";
      } catch {
        await client.query("ROLLBACK");
        end = "rolled back";
      } finally {
        client.release();
      }
    },
    query: (tx, { text }, values) => tx.query(text, [...values]),
  });
  const session = using.open({ isolation: "read committed", timeoutMs: 30 });
  await expect(session).rejects.toThrow("no answer from Postgres in time");
  open();
  await waitFor(() => end);
  expect(end).toBe("rolled back");
});

test("an error of the server at COMMIT is a rollback, and any other is unknown", async () => {
  const noRows = { rows: [], rowCount: 0 };
  const failing = (error: unknown): TransactionAdapter<object> =>
    heldTransactions<object>({
      begin: async (work) => {
        await work({});
        throw error;
      },
      query: async () => noRows,
    });
  const server = Object.assign(new Error("deferred"), { code: "23505", severity: "ERROR" });
  const endOf = async (error: unknown): Promise<string> => {
    const session = await failing(error).open({ isolation: "read committed", timeoutMs: 1_000 });
    return (await session.commit()).kind;
  };
  expect(await endOf(server)).toBe("rolled_back");
  expect(await endOf(Object.assign(new Error("wrapped"), { cause: server }))).toBe("rolled_back");
  expect(await endOf(new Error("Connection terminated unexpectedly"))).toBe("unknown");
  expect(await endOf(Object.assign(new Error("write"), { code: "EPIPE" }))).toBe("unknown");
  const leaving = Object.assign(new Error("leaving"), { code: "57P01", severity: "FATAL" });
  expect(await endOf(leaving)).toBe("unknown");
});

test("one listener watches a pool, however many routes use it, and one a client", async () => {
  const pool = new pg.Pool({ connectionString: database.url, max: 1 });
  for (let route = 0; route < 20; route += 1) listenForLoss(pool);
  expect(pool.listenerCount("acquire")).toBe(1);
  const errorListeners = async (): Promise<number> => {
    const client = await pool.connect();
    const listeners = client.listenerCount("error");
    client.release();
    return listeners;
  };
  expect([await errorListeners(), await errorListeners()]).toEqual([1, 1]);
  await pool.end();
});
