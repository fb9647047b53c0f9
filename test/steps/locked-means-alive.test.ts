/** A step's transaction holds the row of its key: while it can still commit, nobody takes over, whatever the clock says. */
import express from "express";
import pg from "pg";
import request from "supertest";

import { createIdempotency, type Idempotency } from "../../src/index.js";
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

function api(pool: pg.Pool): [Idempotency, express.Express] {
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
  return [idempotent, app];
}

test.each([
  ["before its first write", /INSERT INTO rows/],
  ["before its recovery point", /\0oncekey_steps-save\0/],
  ["before its COMMIT", /COMMIT\0/],
])("a step that stands still %s keeps its key past the lease", async (when, pattern) => {
  const key = `locked ${when}`;
  const post = (app: express.Express) =>
    request(app).post("/rows").set("Idempotency-Key", key).send({});
  const proxy = await startTcpProxy({ target: database.url });
  const pool = new pg.Pool({ connectionString: proxy.via(database.url) });
  const [slow, slowApp] = api(pool);
  const [other, otherApp] = api(database.pool);
  const holding = proxy.holdAt(pattern);
  const first = post(slowApp).then((response) => response);
  const held = await holding;
  // Past the lease, and well before the next heartbeat.
  await moveClock(database.pool, 60_000);
  const early = await post(otherApp);
  expect([early.status, early.body.code]).toEqual([409, "in_progress"]);
  held.release();
  expect((await first).status).toBe(201);
  await post(otherApp).expect(201);
  const rows = await database.pool.query("SELECT FROM rows WHERE key = $1", [key]);
  expect(rows.rowCount).toBe(1);
  await moveClock(database.pool, 0);
  await Promise.all([slow.close(), other.close()]);
  await pool.end();
  await proxy.close();
});
