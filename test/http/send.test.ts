/** `req.idempotency.send`: a message leaves if the handler's transaction has committed, and never otherwise. */
import express from "express";
import request from "supertest";

import { createIdempotency } from "../../src/index.js";
import type { Idempotency } from "../../src/index.js";
import { outboxWorker, type OutgoingMessage } from "../../src/outbox.js";
import { outboxEventId } from "../../src/stores/outbox.js";
import { migrate, postgresStore } from "../../src/stores/postgres.js";
import { createDatabase, type Database } from "../support/databases.js";
import { waitFor } from "../support/wait-for.js";

let database: Database;
let idempotent: Idempotency;
const api = express();
const kept: { send?: (topic: string, payload: unknown) => Promise<unknown> } = {};

type Handle = (
  req: express.Request,
  res: express.Response,
  tx: { query: (text: string) => Promise<unknown> },
) => unknown;
let handle: Handle;

beforeAll(async () => {
  database = await createDatabase({
    prepare: async (pool) => {
      await migrate({ pool });
      await pool.query(
        "CREATE TABLE payments (id int PRIMARY KEY, parent int REFERENCES payments DEFERRABLE INITIALLY DEFERRED)",
      );
    },
  });
  idempotent = createIdempotency({
    store: postgresStore({ pool: database.pool }),
    // The database's clock is moved here, which a process that remembers an answer does not see.
    nearCache: false,
    scope: "global",
  });
  api.use(express.json());
  api.post(
    "/payments",
    idempotent.transaction((req, res, tx) =>
      handle(req, res, tx as unknown as Parameters<Handle>[2]),
    ),
  );
  api.post("/plain", idempotent(), (req, res) => {
    void req.idempotency?.send("payment.made", {});
    res.json({});
  });
  api.use(((error, _req, res, _next) => {
    res.status(500).json({ code: (error as { code?: string }).code });
  }) satisfies express.ErrorRequestHandler);
});

afterAll(async () => {
  await idempotent.close();
  await database.drop();
});

beforeEach(() => database.pool.query("TRUNCATE idempotency_outbox, payments"));

const post = (key: string, path = "/payments") =>
  request(api).post(path).set("Idempotency-Key", key).send({ amount: 1 });

async function stored(): Promise<{ event_id: string; topic: string; payload: unknown }[]> {
  const { rows } = await database.pool.query<{ event_id: string; topic: string; payload: unknown }>(
    "SELECT event_id, topic, payload FROM idempotency_outbox ORDER BY sequence",
  );
  return rows;
}

test("messages are there with the commit, and a replay adds none", async () => {
  handle = async (req, res) => {
    const ids = await Promise.all([
      req.idempotency?.send("payment.made", { amount: 1 }),
      req.idempotency?.send("receipt.due", null),
    ]);
    expect(await stored()).toEqual([]);
    res.status(201).json(ids);
  };
  const first = await post("both").expect(201);
  const ref = { scope: "global", key: "both" };
  expect(first.body).toEqual([outboxEventId(ref, "send 1"), outboxEventId(ref, "send 2")]);
  const expected = [
    { event_id: first.body[0], topic: "payment.made", payload: { amount: 1 } },
    { event_id: first.body[1], topic: "receipt.due", payload: null },
  ];
  expect(await stored()).toEqual(expected);
  await post("both").expect("Idempotent-Replayed", "true").expect(201);
  expect(await stored()).toEqual(expected);
});

test.each<[string, Handle]>([
  [
    "throws",
    async (req) => {
      await req.idempotency?.send("payment.made", {});
      throw new Error("no");
    },
  ],
  [
    "answers 500",
    async (req, res) => {
      await req.idempotency?.send("payment.made", {});
      res.status(500).end();
    },
  ],
  [
    "releases the key",
    async (req, res) => {
      await req.idempotency?.send("payment.made", {});
      req.idempotency?.release();
      res.status(402).end();
    },
  ],
  [
    "fails at the commit",
    async (req, res, tx) => {
      await tx.query("INSERT INTO payments VALUES (1, 99)");
      await req.idempotency?.send("payment.made", {});
      res.status(201).end();
    },
  ],
])(
  "nothing leaves of a handler that %s, and the retry sends the same event",
  async (_what, failing) => {
    const key = `fails-${_what.replaceAll(" ", "-")}`;
    handle = failing;
    expect((await post(key)).status).not.toBe(201);
    expect(await stored()).toEqual([]);
    handle = async (req, res) => {
      void req.idempotency?.send("payment.made", {});
      res.status(201).end();
    };
    await post(key).expect(201);
    expect((await stored()).map((row) => row.event_id)).toEqual([
      outboxEventId({ scope: "global", key }, "send 1"),
    ]);
  },
);

test.each<[string, string, unknown]>([
  ["a payload that is too large", "payment.made", "x".repeat(256 * 1024)],
  ["a payload that is no JSON", "payment.made", undefined],
  ["a topic with a space", "payment made", {}],
])("%s fails the request, also where nobody awaits it", async (_what, topic, payload) => {
  handle = (req, res) => {
    void req.idempotency?.send(topic, payload);
    res.status(201).end();
  };
  const answer = await post(`invalid-${_what.length}`);
  expect(answer.status).toBe(500);
  expect(answer.body).toEqual({ code: "message_invalid" });
  expect(await stored()).toEqual([]);
});

test("a request sends at most 1,000 messages", async () => {
  handle = (req, res) => {
    for (let count = 0; count <= 1_000; count += 1) void req.idempotency?.send("many", count);
    res.status(201).end();
  };
  await post("too-many").expect(500);
  expect(await stored()).toEqual([]);
});

test("a message that the outbox holds from an earlier use of the key is not swallowed", async () => {
  handle = (req, res) => {
    void req.idempotency?.send("payment.made", {});
    res.status(201).end();
  };
  await post("reused").expect(201);
  await database.pool.query("DELETE FROM idempotency_keys WHERE key = 'reused'");
  const answer = await post("reused");
  expect(answer.status).toBe(500);
  expect(answer.body).toEqual({ code: "message_invalid" });
});

test("after the end of the transaction sending throws", async () => {
  handle = (req, res) => {
    const { idempotency } = req;
    kept.send = async (topic, payload) => idempotency?.send(topic, payload);
    res.status(201).end();
  };
  await post("late").expect(201);
  await expect(kept.send?.("payment.made", {})).rejects.toThrow(
    expect.objectContaining({ code: "transaction_ended" }),
  );
});

test("a plain route cannot send", async () => {
  const answer = await post("plain", "/plain");
  expect(answer.body).toEqual({ code: "send_not_possible" });
});

test("a worker of this process delivers at once what a request has committed", async () => {
  const got: OutgoingMessage[] = [];
  const worker = outboxWorker({
    pool: database.pool,
    destination: { deliver: async (message) => void got.push(message) },
    pollMs: 3_600_000,
  });
  handle = async (req, res) => {
    await req.idempotency?.send("payment.made", { amount: 7 });
    res.status(201).end();
  };
  await worker.runOnce();
  worker.start();
  await post("woken").expect(201);
  await waitFor(() => got.length === 1, { what: "the delivery" });
  expect(got[0]).toMatchObject({ topic: "payment.made", payload: '{"amount":7}', key: "woken" });
  await worker.stop();
});
