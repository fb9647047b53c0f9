/** Conflicts of transactions: what is run again, how often, and what the client is told in the end. */
import express from "express";
import type { PoolClient } from "pg";
import request from "supertest";

import { createIdempotency } from "../../src/index.js";
import type {
  HttpRequest,
  Idempotency,
  IdempotencyEvent,
  TransactionRouteOptions,
} from "../../src/index.js";
import { migrate, postgresStore } from "../../src/stores/postgres.js";
import { createDatabase } from "../support/databases.js";
import type { Database } from "../support/databases.js";
import { waitFor } from "../support/wait-for.js";

let database: Database;
let idempotent: Idempotency;
let events: IdempotencyEvent[] = [];

beforeAll(async () => {
  database = await createDatabase({
    prepare: async (pool) => {
      await migrate({ pool });
      await pool.query(`
        CREATE TABLE orders (note text PRIMARY KEY);
        CREATE TABLE stock (item text PRIMARY KEY, amount integer NOT NULL);
        INSERT INTO stock VALUES ('pens', 100), ('ink', 100)`);
    },
  });
  idempotent = createIdempotency({
    store: postgresStore({ pool: database.pool }),
    scope: "global",
    workers: false,
    hooks: { onEvent: (event) => void events.push(event) },
  });
});
beforeEach(() => {
  events = [];
});
afterAll(async () => {
  await idempotent.close();
  await database.drop();
});

type Handler = (req: HttpRequest, res: express.Response, tx: PoolClient) => unknown;

function app(route: TransactionRouteOptions<PoolClient>, handler: Handler): express.Express {
  const api = express();
  api.use(express.json());
  api.post("/", idempotent.transaction<HttpRequest>(route, handler));
  api.use(((error: Error & { code?: string }, _req, res, _next) => {
    res.status(500).json({ failed: error.message, code: error.code });
  }) satisfies express.ErrorRequestHandler);
  return api;
}
const post = (api: express.Express, key?: string) => {
  const call = request(api).post("/").send({ amount: 1 });
  return key === undefined ? call : call.set("Idempotency-Key", key);
};
const refuse = (tx: PoolClient, state: string) =>
  tx.query(`DO $$ BEGIN RAISE EXCEPTION 'refused' USING ERRCODE = '${state}'; END $$`);
const retries = (): number => events.filter(({ type }) => type === "transaction_retried").length;

test("ends with 503 transaction_conflict when the retries are used up, and the key is free", async () => {
  let runs = 0;
  let isRefusing = true;
  const api = app({ transactionRetries: 2 }, async (_req, res, tx) => {
    runs += 1;
    await tx.query("INSERT INTO orders VALUES ('used up')");
    if (isRefusing) await refuse(tx, "40001");
    res.status(201).json({ runs });
  });
  const response = await post(api, "used-up");
  expect([response.status, response.body.code]).toEqual([503, "transaction_conflict"]);
  expect([response.headers["retry-after"], response.body.retryable]).toEqual(["1", true]);
  expect(response.headers["idempotency-key"]).toBe("used-up");
  expect([runs, retries()]).toEqual([3, 2]);
  const unkeyed = await post(api);
  expect([unkeyed.status, unkeyed.body.code, runs]).toEqual([503, "transaction_conflict", 6]);
  isRefusing = false;
  await post(api, "used-up").expect(201, { runs: 7 });
});

test("runs once where retries are none, and never again for another error", async () => {
  let runs = 0;
  const handler =
    (state: string): Handler =>
    async (_req, _res, tx) => {
      runs += 1;
      await refuse(tx, state);
    };
  const never = await post(app({ transactionRetries: 0 }, handler("40P01")), "none");
  expect([never.status, never.body.code, runs]).toEqual([503, "transaction_conflict", 1]);
  const failed = await post(app({}, handler("23505")), "other-error");
  expect([failed.status, failed.body.failed, runs]).toEqual([500, "refused", 2]);
});

test("finds the conflict in an error that the handler has wrapped", async () => {
  let runs = 0;
  const api = app({}, async (_req, res, tx) => {
    runs += 1;
    if (runs === 1) {
      await refuse(tx, "40001").catch((cause: unknown) => {
        throw new Error("could not reserve", { cause });
      });
    }
    res.status(201).json({ runs });
  });
  await post(api, "wrapped").expect(201, { runs: 2 });
});

test("two handlers that deadlock: both end well, each with one effect", async () => {
  let arrived = 0;
  let bothHold: () => void = () => undefined;
  const both = new Promise<void>((resolve) => (bothHold = resolve));
  const take = (tx: PoolClient, item: string) =>
    tx.query("UPDATE stock SET amount = amount - 1 WHERE item = $1", [item]);
  const api = app({ transactionTimeoutMs: 10_000 }, async (req, res, tx) => {
    const items = req.headers["x-order"] === "1" ? ["pens", "ink"] : ["ink", "pens"];
    await take(tx, items[0] as string);
    arrived += 1;
    if (arrived === 2) bothHold();
    await both;
    await take(tx, items[1] as string);
    res.status(201).json({ attempt: req.idempotency?.attempt });
  });
  const [one, other] = await Promise.all([
    post(api, "deadlock-1").set("x-order", "1"),
    post(api, "deadlock-2").set("x-order", "2"),
  ]);
  expect([one.status, other.status]).toEqual([201, 201]);
  expect(new Set([one.body.attempt, other.body.attempt])).toEqual(new Set([1, 2]));
  const { rows } = await database.pool.query("SELECT amount FROM stock ORDER BY item");
  expect(rows).toEqual([{ amount: 98 }, { amount: 98 }]);
});

test("a key that is committed after the snapshot was taken is replayed, not run again", async () => {
  let runs = 0;
  const api = app({ isolation: "serializable" }, (_req, res) => {
    runs += 1;
    res.status(201).json({ runs });
  });
  const server = api.listen(0);
  const until = async (): Promise<string> => {
    const done = await waitFor(async () => {
      const response = await request(server)
        .post("/")
        .set("Idempotency-Key", "many-at-once")
        .send({ amount: 1 });
      return response.status === 409 ? undefined : response;
    });
    expect(done.status).toBe(201);
    return done.text;
  };
  expect(new Set(await Promise.all(Array.from({ length: 30 }, until)))).toEqual(
    new Set(['{"runs":1}']),
  );
  expect(runs).toBe(1);
  await new Promise((resolve) => server.close(resolve));
});

test("a client that hung up gets its work done over a conflict, and the retry replays it", async () => {
  let runs = 0;
  let started: () => void = () => undefined;
  const running = new Promise<void>((resolve) => (started = resolve));
  let goOn: () => void = () => undefined;
  const gate = new Promise<void>((resolve) => (goOn = resolve));
  const api = app({}, async (req, res, tx) => {
    runs += 1;
    started();
    if (runs === 1) {
      await gate;
      await waitFor(() => req.socket.destroyed);
      await refuse(tx, "40001");
    }
    await tx.query("INSERT INTO orders VALUES ('hung up')");
    res.status(201).json({ runs });
  });
  const server = api.listen(0);
  const call = request(server).post("/").set("Idempotency-Key", "hung-up").send({ amount: 1 });
  const aborted = call.then(
    () => "answered",
    () => "aborted",
  );
  await running;
  call.abort();
  goOn();
  await waitFor(() => events.some(({ type }) => type === "completed"));
  const replayed = await request(server)
    .post("/")
    .set("Idempotency-Key", "hung-up")
    .send({ amount: 1 });
  expect([replayed.status, replayed.text]).toEqual([201, '{"runs":2}']);
  expect(replayed.headers["idempotent-replayed"]).toBe("true");
  void aborted;
  await new Promise((resolve) => server.close(resolve));
});
