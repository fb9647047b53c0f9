/** A handler that hangs is not believed for ever, in its own process as little as in others. */
import express from "express";
import request from "supertest";

import { createIdempotency } from "../../src/index.js";
import { migrate, postgresStore } from "../../src/stores/postgres.js";
import { useDatabase } from "../support/databases.js";
import { waitFor } from "../support/wait-for.js";

const database = useDatabase({ prepare: (pool) => migrate({ pool }) });

test("a handler beyond maxRunMs ends as outcome_unknown, and may still complete late", async () => {
  let finish: () => void = () => undefined;
  let entered: () => void = () => undefined;
  const gate = new Promise<void>((resolve) => (finish = resolve));
  const inside = new Promise<void>((resolve) => (entered = resolve));
  const idempotent = createIdempotency({
    store: postgresStore({ pool: database.pool }),
    scope: () => "acme",
    workers: false,
    maxRunMs: 50,
    leaseMs: 200,
    heartbeatMs: 50,
  });
  const app = express();
  app.use(express.json());
  app.post("/orders", idempotent(), async (_req, res) => {
    entered();
    await gate;
    res.status(201).json({ late: true });
  });
  const send = () => request(app).post("/orders").set("Idempotency-Key", "hangs-here").send({});
  const first = send().then((response) => response);
  await inside;
  await waitFor(async () => (await send()).body.code === "outcome_unknown", {
    what: "the end of the lease",
  });
  finish();
  expect((await first).body).toEqual({ late: true });
  await send().expect(201, { late: true });
  await idempotent.close();
});
