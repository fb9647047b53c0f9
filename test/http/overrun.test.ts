/** A handler that hangs is not believed for ever, in its own process as little as in others. */
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";

import express from "express";
import request from "supertest";

import { createIdempotency } from "../../src/index.js";
import { memoryStore } from "../../src/stores/memory.js";
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

test("a handler that never settles is held and waited for no longer than maxRunMs", async () => {
  const idempotent = createIdempotency({
    store: memoryStore(),
    scope: () => "acme",
    maxRunMs: 50,
    heartbeatMs: 50,
    leaseMs: 200,
  });
  const app = express();
  app.use(express.json());
  let body: WeakRef<object> | undefined;
  let response: WeakRef<object> | undefined;
  app.post("/orders", idempotent(), (req, res) => {
    body = new WeakRef(req.body as object);
    response = new WeakRef(res);
  });
  const server = app.listen(0, "127.0.0.1");
  const sent = request(server).post("/orders").set("Idempotency-Key", "never").send({ id: 1 });
  const cut = sent.then(
    () => "answered",
    (error: Error) => error.message,
  );
  await waitFor(() => response !== undefined);
  server.closeAllConnections();
  expect(await cut).toBe("socket hang up");
  await new Promise((resolve) => server.close(resolve));
  setFlagsFromString("--expose-gc");
  const collectGarbage = runInNewContext("gc") as () => void;
  await waitFor(
    () => {
      collectGarbage();
      return body?.deref() === undefined && response?.deref() === undefined;
    },
    { what: "the request to be forgotten" },
  );
  // Within the time of this test, which is less than the grace.
  await idempotent.close({ graceMs: 60_000 });
});
