/**
 * The story: a retry took over an abandoned steps request, and the reply of Postgres was lost for longer than the retry waited.
 * Its client was told 503 `store_unavailable`, and what had been claimed for nothing was given back, as a first claim is: the
 * row was deleted, and with it the recovery points of the attempt before. The next retry began at the first step and did it a
 * second time.
 *
 * A claim of unfinished steps that is not used is now given back as it was found: due, with all its recovery points.
 */
import express from "express";
import pg from "pg";
import request from "supertest";

import { createIdempotency, type Idempotency } from "../../src/index.js";
import { migrate, postgresStore } from "../../src/stores/postgres.js";
import { useDatabase } from "../support/databases.js";
import { startTcpProxy } from "../support/tcp-proxy.js";
import { waitFor } from "../support/wait-for.js";

const database = useDatabase({
  prepare: async (pool) => {
    await migrate({ pool });
    await pool.query("CREATE TABLE reserved (key text)");
  },
});

function api(pool: pg.Pool, attempts: { failing: boolean }): [Idempotency, express.Express] {
  const idempotent = createIdempotency({
    store: postgresStore({ pool, timeoutMs: 1_000 }),
    scope: "global",
    workers: false,
    claimTimeoutMs: 300,
  });
  const app = express();
  app.use(express.json());
  app.post(
    "/checkouts",
    idempotent.steps("checkout", async ({ key }, steps) => {
      await steps.transaction("reserve", (tx) =>
        tx.query("INSERT INTO reserved VALUES ($1)", [key]),
      );
      if (attempts.failing) throw new Error("the provider is away");
      return { status: 201 };
    }),
  );
  return [idempotent, app];
}

test("a take-over that nobody uses keeps the recovery points", async () => {
  const key = "take-over-that-is-not-used";
  const post = (app: express.Express) =>
    request(app).post("/checkouts").set("Idempotency-Key", key).send({});
  const attempts = { failing: true };
  const [direct, app] = api(database.pool, attempts);
  await post(app).expect(503);
  attempts.failing = false;

  const proxy = await startTcpProxy({ target: database.url });
  const pool = new pg.Pool({ connectionString: proxy.via(database.url) });
  pool.on("error", () => undefined);
  const [cutOff, cutOffApp] = api(pool, attempts);
  void proxy.cutAt(/oncekey_take-over\0/).then(() => proxy.refuse());
  const refused = await post(cutOffApp);
  expect([refused.status, refused.body.code]).toEqual([503, "store_unavailable"]);
  const state = async (): Promise<unknown> => {
    const found = await database.pool.query("SELECT state, attempt FROM idempotency_keys");
    return found.rows[0];
  };
  expect(await state()).toEqual({ state: "running", attempt: 2 });
  proxy.heal();
  await waitFor(async () => (await state()) === undefined || (await post(app)).status === 201);

  await post(app).expect(201);
  const reserved = await database.pool.query("SELECT FROM reserved");
  expect(reserved.rowCount).toBe(1);
  await Promise.all([direct.close(), cutOff.close()]);
  await pool.end();
  await proxy.close();
});
