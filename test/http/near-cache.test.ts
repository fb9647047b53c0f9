/** Replays and refusals that need no round trip, on Postgres: counted by what the store is asked. */
import express from "express";
import request from "supertest";
import { createIdempotency } from "../../src/index.js";
import type { IdempotencyOptions } from "../../src/index.js";
import { migrate, postgresStore } from "../../src/stores/postgres.js";
import type { CacheableStore } from "../../src/core/ports.js";
import { useDatabase } from "../support/databases.js";

const database = useDatabase();
let counter = 0;

beforeAll(async () => {
  await migrate({ pool: database.pool });
});

function bench(options: Partial<IdempotencyOptions<express.Request>> = {}) {
  const durable = postgresStore({ pool: database.pool });
  let claims = 0;
  const store: CacheableStore = {
    ...durable,
    claim: (asked) => {
      claims += 1;
      return durable.claim(asked);
    },
  };
  const idempotent = createIdempotency({
    store,
    scope: (req) => req.get("tenant") ?? "acme",
    ...options,
  });
  let runs = 0;
  let mayAnswer: Promise<void> = Promise.resolve();
  const app = express();
  app.use(express.json());
  app.post("/orders", idempotent(), async (_req, res) => {
    runs += 1;
    await mayAnswer;
    res.status(201).json({ order: runs });
  });
  app.post(
    "/charges",
    idempotent.transaction((_req, res) => void res.status(201).json({ charge: (runs += 1) })),
  );
  const post = (path: string, key: string, body: object = {}, tenant = "acme") =>
    request(app).post(path).set("Idempotency-Key", key).set("tenant", tenant).send(body);
  return {
    idempotent,
    post,
    claims: () => claims,
    runs: () => runs,
    hold: (until: Promise<void>) => void (mayAnswer = until),
    key: () => `near-${(counter += 1)}-of-this-file`,
  };
}

test.each(["/orders", "/charges"])("a replay on %s asks the store nothing", async (path) => {
  const { idempotent, post, claims, runs, key } = bench();
  const mine = key();
  const first = await post(path, mine).expect(201);
  const asked = claims();
  const connections = database.pool.totalCount;
  const replay = await post(path, mine).expect(201);
  expect(replay.headers["idempotent-replayed"]).toBe("true");
  expect(replay.text).toBe(first.text);
  expect([claims(), database.pool.totalCount, runs()]).toEqual([asked, connections, 1]);
  await idempotent.close();
});

test("a mismatch is refused here, by the names of what differs", async () => {
  const { idempotent, post, claims, key } = bench();
  const mine = key();
  await post("/orders", mine, { amount: 1 }).expect(201);
  const { body } = await post("/orders", mine, { amount: 2 }).expect(422);
  expect([body.code, body.differs, claims()]).toEqual(["key_reused", ["body.amount"], 1]);
  await idempotent.close();
});

test("another scope knows nothing of it", async () => {
  const { idempotent, post, runs, key } = bench();
  const mine = key();
  await post("/orders", mine).expect(201);
  await post("/orders", mine, {}, "other").expect(201);
  expect(runs()).toBe(2);
  await idempotent.close();
});

test("fifty equal requests at once cost the store one claim", async () => {
  const { idempotent, post, claims, runs, key, hold } = bench();
  const mine = key();
  let answer: () => void = () => undefined;
  hold(new Promise((resolve) => (answer = resolve)));
  const all = Array.from({ length: 50 }, () => post("/orders", mine));
  const refused = Promise.all(all.map(async (one) => (await one).status)).then((statuses) =>
    statuses.filter((status) => status === 409),
  );
  // The others are answered while the first one runs.
  await Promise.any(all.map(async (one) => ((await one).status === 409 ? undefined : fail())));
  answer();
  expect((await refused).length).toBe(49);
  expect([claims(), runs()]).toEqual([1, 1]);
  await idempotent.close();
});

function fail(): never {
  throw new Error("no refusal");
}

test("what an operator erases here is gone at once", async () => {
  const { idempotent, post, key } = bench();
  const mine = key();
  await post("/orders", mine).expect(201);
  await idempotent.operations?.forget(
    { scope: "acme", key: mine },
    { by: "ops", why: "erasure of personal data" },
  );
  const { body } = await post("/orders", mine).expect(409);
  expect(body.code).toBe("key_expired");
  await idempotent.close();
});

test("without it the store is asked every time", async () => {
  const { idempotent, post, claims, key } = bench({ nearCache: false });
  const mine = key();
  await post("/orders", mine).expect(201);
  await post("/orders", mine).expect(201);
  expect(claims()).toBe(2);
  await idempotent.close();
});
