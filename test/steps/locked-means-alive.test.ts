/** A step's transaction holds the row of its key: while it can still commit, nobody takes over, whatever the clock says. */
import { randomUUID } from "node:crypto";

import express from "express";
import pg from "pg";
import request from "supertest";

import { createIdempotency } from "../../src/index.js";
import { migrate, postgresStore } from "../../src/stores/postgres.js";
import { moveClock } from "../faults/shop.js";
import { useDatabase } from "../support/databases.js";
import { startTcpProxy } from "../support/tcp-proxy.js";

const database = useDatabase({
  prepare: async (pool) => {
    await migrate({ pool });
    await pool.query("CREATE TABLE rows (key text)");
  },
});

const closers: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  await moveClock(database.pool, 0);
  for (const close of closers.splice(0).toReversed()) await close();
});

function api(pool: pg.Pool): express.Express {
  const idempotent = createIdempotency({
    store: postgresStore({ pool }),
    scope: "global",
    workers: false,
  });
  const app = express();
  app.use(express.json());
  app.post(
    "/rows",
    idempotent.steps("rows", async ({ key }, steps) => {
      // A row that is in nobody's way: only the key's own lock keeps two of them apart.
      await steps.transaction("write", (tx) => tx.query("INSERT INTO rows VALUES ($1)", [key]));
      return { status: 201, body: {} };
    }),
  );
  closers.push(() => idempotent.close({ graceMs: 1_000 }));
  return app;
}

test.each([
  ["before its first write", /INSERT INTO rows/],
  ["before its recovery point", /\0oncekey_steps-save\0/],
  ["before its COMMIT", /COMMIT\0/],
])("a step that stands still %s keeps its key past the lease", async (_when, pattern) => {
  const key = randomUUID();
  const post = (app: express.Express) =>
    request(app).post("/rows").set("Idempotency-Key", key).send({});
  const proxy = await startTcpProxy({ target: database.url });
  const pool = new pg.Pool({ connectionString: proxy.via(database.url) });
  pool.on("error", () => undefined);
  closers.push(
    () => proxy.close(),
    () => pool.end(),
  );
  const [slow, other] = [api(pool), api(database.pool)];
  const holding = proxy.holdAt(pattern);
  const first = post(slow).then((response) => response);
  const held = await holding;
  // Past the lease, and well before the next heartbeat.
  await moveClock(database.pool, 60_000);
  const early = await post(other);
  expect([early.status, early.body.code]).toEqual([409, "in_progress"]);
  held.release();
  expect((await first).status).toBe(201);
  await post(other).expect(201);
  const rows = await database.pool.query("SELECT FROM rows WHERE key = $1", [key]);
  expect(rows.rowCount).toBe(1);
});
