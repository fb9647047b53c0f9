/** A step that its handler does not await holds the row of its key: what ends the key must not wait for that row. */
import express from "express";
import request from "supertest";

import { createIdempotency } from "../../src/index.js";
import type { CacheableStore } from "../../src/core/ports.js";
import { migrate, postgresStore } from "../../src/stores/postgres.js";
import { useDatabase } from "../support/databases.js";
import { waitFor } from "../support/wait-for.js";

const database = useDatabase({
  prepare: async (pool) => {
    await migrate({ pool });
    await pool.query("CREATE TABLE rows (key text)");
  },
});

test.each([
  ["answers", "complete", 200],
  ["throws", "park", 503],
] as const)("a handler that %s has its open step end first", async (how, verb, status) => {
  const durable = postgresStore({ pool: database.pool });
  if (durable.steps === undefined) throw new Error("Postgres has steps");
  const order: string[] = [];
  const store: CacheableStore = {
    ...durable,
    complete: (claim, completion) => {
      order.push("complete");
      return durable.complete(claim, completion);
    },
    steps: {
      ...durable.steps,
      park: (...given) => {
        order.push("park");
        return (durable.steps as NonNullable<CacheableStore["steps"]>).park(...given);
      },
    },
  };
  const idempotent = createIdempotency({ store, scope: "global", workers: false });
  let mayEnd: () => void = () => undefined;
  const gate = new Promise<void>((resolve) => (mayEnd = resolve));
  let isLeft = false;
  const app = express();
  app.use(express.json());
  app.post(
    "/rows",
    idempotent.steps("rows", async ({ key }, steps) => {
      let entered: () => void = () => undefined;
      const inside = new Promise<void>((resolve) => (entered = resolve));
      void steps.transaction("write", async (tx) => {
        await tx.query("INSERT INTO rows VALUES ($1)", [key]);
        entered();
        await gate;
        order.push("step");
      });
      await inside;
      isLeft = true;
      if (how === "throws") throw new Error("the provider is away");
      return { status: 200, body: {} };
    }),
  );
  const answered = request(app)
    .post("/rows")
    .set("Idempotency-Key", how)
    .send({})
    .then((response) => response.status);
  await waitFor(() => isLeft);
  await new Promise(setImmediate);
  mayEnd();
  expect(await answered).toBe(status);
  expect(order).toEqual(["step", verb]);
  const rows = await database.pool.query("SELECT FROM rows WHERE key = $1", [how]);
  expect(rows.rowCount).toBe(1);
  await idempotent.close();
});
