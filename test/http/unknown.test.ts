/** Unknown outcomes of plain routes: admitted, settled by a hook or an operator, or completed late. */
import express from "express";
import request from "supertest";

import { createIdempotency } from "../../src/index.js";
import type { Idempotency, Reconcile, UnknownRequest } from "../../src/index.js";
import { migrate, postgresStore } from "../../src/stores/postgres.js";
import { useDatabase } from "../support/databases.js";
import { waitFor } from "../support/wait-for.js";

const database = useDatabase({ prepare: (pool) => migrate({ pool }) });

const instances: Idempotency[] = [];
afterEach(async () => {
  await Promise.all(instances.splice(0).map((instance) => instance.close({ graceMs: 0 })));
});

interface Shop {
  readonly idempotent: Idempotency;
  readonly app: express.Express;
}

function shop(handler: express.RequestHandler, reconcile?: Reconcile): Shop {
  const idempotent = createIdempotency({
    store: postgresStore({ pool: database.pool }),
    scope: () => "acme",
    workers: false,
  });
  instances.push(idempotent);
  const app = express();
  app.use(express.json());
  const route = reconcile === undefined ? {} : { reconcile };
  app.post("/orders", idempotent(route), handler);
  return { idempotent, app };
}

let counter = 0;
const newKey = (): string => `unknown-key-${(counter += 1)}-here`;
const post = (app: express.Express, key: string) =>
  request(app).post("/orders").set("Idempotency-Key", key).send({ a: 1 });

/** A request whose process seems to have died: its handler hangs, and its lease is over. */
async function abandon(
  key: string,
): Promise<{ finish: () => void; first: Promise<request.Response> }> {
  let finish: () => void = () => undefined;
  let entered: () => void = () => undefined;
  const gate = new Promise<void>((resolve) => (finish = resolve));
  const inside = new Promise<void>((resolve) => (entered = resolve));
  const { app } = shop(async (_req, res) => {
    entered();
    await gate;
    res.status(201).json({ by: "the late one" });
  });
  const first = post(app, key).then((response) => response);
  await inside;
  await database.pool.query(
    "UPDATE idempotency_keys SET lease_until = clock_timestamp() WHERE key = $1",
    [key],
  );
  return { finish, first };
}

const settlements = async (key: string) =>
  (
    await database.pool.query(
      "SELECT outcome, settled_by, why FROM idempotency_settlements WHERE key = $1 ORDER BY id",
      [key],
    )
  ).rows;

test("is admitted, and settled by the late completion while nobody took over", async () => {
  const key = newKey();
  const { finish, first } = await abandon(key);
  let runs = 0;
  const { app } = shop((_req, res) => {
    runs += 1;
    res.json({});
  });
  const unknown = await post(app, key);
  expect(unknown.status).toBe(409);
  expect(unknown.body).toMatchObject({ code: "outcome_unknown", retryable: false });
  finish();
  expect((await first).body).toEqual({ by: "the late one" });
  await post(app, key).expect(201, { by: "the late one" });
  expect(runs).toBe(0);
});

test("is settled by the hook's response, which the late process then sends too", async () => {
  const key = newKey();
  const { finish, first } = await abandon(key);
  let asked: UnknownRequest | undefined;
  const { app } = shop(
    (_req, res) => void res.json({ by: "nobody" }),
    (unknown) => {
      asked = unknown;
      return { status: 201, body: { by: "the hook" } };
    },
  );
  const settled = await post(app, key);
  expect(settled.status).toBe(201);
  expect(settled.body).toEqual({ by: "the hook" });
  expect(settled.headers["idempotent-replayed"]).toBe("true");
  expect(asked).toMatchObject({ scope: "acme", key, method: "POST", path: "/orders", attempt: 1 });
  finish();
  expect((await first).body).toEqual({ by: "the hook" });
  expect(await settlements(key)).toMatchObject([{ outcome: "completed", settled_by: "reconcile" }]);
});

test("runs again where the hook is certain that nothing was executed, and only once", async () => {
  const key = newKey();
  const { finish, first } = await abandon(key);
  let runs = 0;
  const { app } = shop(
    (_req, res) => {
      runs += 1;
      res.status(201).json({ by: "the second" });
    },
    () => "not_executed",
  );
  await post(app, key).expect(201, { by: "the second" });
  await post(app, key).expect(201, { by: "the second" });
  expect(runs).toBe(1);
  finish();
  expect((await first).body).toEqual({ by: "the second" });
});

test("stays unknown where the hook does not know, throws or answers nonsense", async () => {
  const key = newKey();
  const { finish } = await abandon(key);
  const answers: Reconcile[] = [
    () => "unknown",
    () => {
      throw new Error("the provider is down");
    },
    () => ({ status: 42 }),
  ];
  for (const answer of answers) {
    const { app } = shop((_req, res) => void res.json({}), answer);
    expect((await post(app, key)).body.code).toBe("outcome_unknown");
  }
  expect(await settlements(key)).toEqual([]);
  finish();
});

test("is settled by an operator, with who and why, and never while a holder lives", async () => {
  const key = newKey();
  const { finish, first } = await abandon(key);
  const { app, idempotent } = shop((_req, res) => void res.status(201).json({ by: "the retry" }));
  const observed = await idempotent.find({ scope: "acme", key });
  if (observed === undefined || idempotent.operations === undefined) throw new Error("not found");
  const who = { by: "ada", why: "the ledger has no such order" };
  const { operations } = idempotent;
  const live = newKey();
  const held = await abandon(live);
  await database.pool.query(
    "UPDATE idempotency_keys SET lease_until = clock_timestamp() + interval '1 minute' WHERE key = $1",
    [live],
  );
  const alive = await idempotent.find({ scope: "acme", key: live });
  if (alive === undefined) throw new Error("not found");
  expect(await operations.resolveNotExecuted(alive.record, who)).toBe("refused");
  expect(await operations.resolveNotExecuted(observed.record, who)).toBe("ok");
  expect(await settlements(key)).toEqual([
    { outcome: "not_executed", settled_by: "ada", why: "the ledger has no such order" },
  ]);
  await post(app, key).expect(201, { by: "the retry" });
  finish();
  held.finish();
  expect((await first).body).toEqual({ by: "the retry" });
  expect(await operations.resolveNotExecuted(observed.record, who)).toBe("refused");
});

test("a forgotten response is gone, and its key never runs again", async () => {
  const key = newKey();
  let runs = 0;
  const { app, idempotent } = shop((_req, res) => {
    runs += 1;
    res.status(201).json({ email: "somebody@example.com" });
  });
  await post(app, key).expect(201);
  await waitFor(
    async () => (await idempotent.find({ scope: "acme", key }))?.record.state === "completed",
  );
  const who = { by: "ada", why: "erasure request 7" };
  expect(await idempotent.operations?.forget({ scope: "acme", key }, who)).toBe("ok");
  const found = await database.pool.query(
    "SELECT body, head FROM idempotency_keys WHERE key = $1",
    [key],
  );
  expect(found.rows).toEqual([{ body: null, head: null }]);
  expect((await post(app, key)).body.code).toBe("key_expired");
  expect(runs).toBe(1);
});
