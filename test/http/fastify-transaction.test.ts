/** Transaction and steps routes on Fastify: one commit, one answer, whatever the handler's way to reply. */
import { Readable } from "node:stream";

import Fastify from "fastify";
import type { FastifyInstance } from "fastify";

import { oncekey } from "../../src/fastify.js";
import type { FastifyTransactionHandler, TransactionRouteOptions } from "../../src/fastify.js";
import type { PoolClient } from "pg";
import { migrate, postgresStore } from "../../src/stores/postgres.js";
import { useDatabase } from "../support/databases.js";
import { callers } from "./fastify-calls.js";

const database = useDatabase({
  prepare: async (pool) => {
    await migrate({ pool });
    await pool.query("CREATE TABLE orders (note text)");
  },
});
const apps: FastifyInstance[] = [];
let retried = 0;
beforeEach(() => {
  retried = 0;
});
afterEach(async () => {
  await Promise.all(apps.splice(0).map((app) => app.close()));
});

let slowSends = 0;
const hasRetried = (): boolean => retried > 0;

async function newApp(): Promise<FastifyInstance> {
  const app = Fastify();
  apps.push(app);
  await app.register(oncekey, {
    store: postgresStore({ pool: database.pool }),
    scope: "global",
    workers: false,
    hooks: { onEvent: ({ type }) => void (retried += type === "transaction_retried" ? 1 : 0) },
  });
  // What is sent passes here after the handler has returned, and in the test of a conflict after it has failed.
  app.addHook("onSend", async () => {
    await new Promise((resolve) => setImmediate(resolve));
    for (; slowSends > 0 && !hasRetried(); slowSends -= 1) await database.pool.query("SELECT");
  });
  return app;
}

async function appOf(
  handler: FastifyTransactionHandler<PoolClient>,
  route: TransactionRouteOptions<PoolClient> = {},
): Promise<FastifyInstance> {
  const app = await newApp();
  app.post("/orders", app.idempotent.transaction(route, handler));
  return app;
}

let counter = 0;
const newKey = (): string => `fastify-tx-${(counter += 1)}-here`;
const body = { amount: 1 };
const insert = (tx: PoolClient, note: string) => tx.query("INSERT INTO orders VALUES ($1)", [note]);
const rows = async (note: string): Promise<number> =>
  (await database.pool.query("SELECT FROM orders WHERE note = $1", [note])).rowCount ?? 0;
const refuse = (tx: PoolClient) =>
  tx.query("DO $$ BEGIN RAISE EXCEPTION 'refused' USING ERRCODE = '40001'; END $$");

const ways: readonly (readonly [string, FastifyTransactionHandler<PoolClient>])[] = [
  ["returned", async () => ({ done: true })],
  ["sent", async (_request, reply) => void reply.send({ done: true })],
  ["sent and the reply returned", async (_request, reply) => reply.send({ done: true })],
  [
    "sent later",
    (_request, reply) => {
      setImmediate(() => reply.send({ done: true }));
      return reply;
    },
  ],
  [
    "streamed",
    async (_request, reply) =>
      reply.type("application/json; charset=utf-8").send(Readable.from(['{"done":', "true}"])),
  ],
];

describe.each(callers)("over %s", (_name, call) => {
  test.each(ways)("commits rows and an answer that is %s, once", async (_what, answer) => {
    const key = newKey();
    const note = `${_name} ${key}`;
    const app = await appOf(async function (request, reply, tx) {
      await insert(tx, note);
      return answer.call(this, request, reply, tx);
    });
    const first = await call(app, { key, body });
    const second = await call(app, { key, body });
    expect([first.status, first.bytes.toString()]).toEqual([200, '{"done":true}']);
    expect(second.bytes.equals(first.bytes)).toBe(true);
    expect(second.headers["idempotent-replayed"]).toBe("true");
    expect(await rows(note)).toBe(1);
  });

  test("rolls back what throws, is above 499 or breaks its stream, and the key is free", async () => {
    const key = newKey();
    const note = `${_name} ${key}`;
    let run = 0;
    const app = await appOf(async (_request, reply, tx) => {
      run += 1;
      await insert(tx, note);
      reply.header("x-run", run);
      if (run === 1) throw new Error("thrown");
      if (run === 2) return reply.code(503).send("later");
      if (run === 3) {
        reply.hijack();
        throw new Error("thrown after a hijack");
      }
      if (run === 4)
        return Readable.from(
          (async function* () {
            yield "half";
            throw new Error("broken");
          })(),
        );
      if (run === 5) {
        reply.send("sent before the throw");
        throw new Error("thrown after sending");
      }
      return { run };
    });
    const statuses: number[] = [];
    const headers: unknown[] = [];
    const written: number[] = [];
    const messages: unknown[] = [];
    for (let tries = 0; tries < 6; tries += 1) {
      const answer = await call(app, { key, body });
      statuses.push(answer.status);
      headers.push(answer.headers["x-run"]);
      written.push(await rows(note));
      if (answer.status === 500) messages.push(answer.json()["message"]);
    }
    expect(statuses).toEqual([500, 503, 500, 500, 500, 200]);
    expect(headers).toEqual([undefined, "2", undefined, undefined, undefined, "6"]);
    expect(written).toEqual([0, 0, 0, 0, 0, 1]);
    const thrown = [
      "thrown",
      "thrown after a hijack",
      "The handler destroyed its response.",
      "thrown after sending",
    ];
    expect(messages).toEqual(thrown);
  });

  test("answers once after a conflict, with nothing of the run before", async () => {
    const key = newKey();
    const note = `${_name} ${key}`;
    let run = 0;
    const app = await appOf(async (_request, reply, tx) => {
      run += 1;
      await insert(tx, note);
      if (run === 1) {
        slowSends = 200;
        reply.code(418).header("x-first", "yes").type("text/plain").send("the first run");
        await refuse(tx);
      }
      return reply.redirect(`/orders/${run}`);
    });
    const first = await call(app, { key, body });
    expect([first.status, first.headers["location"]]).toEqual([302, "/orders/2"]);
    expect(first.headers["x-first"]).toBeUndefined();
    expect(first.headers["content-type"]).toBeUndefined();
    expect((await call(app, { key, body })).headers["location"]).toBe("/orders/2");
    expect([run, await rows(note)]).toEqual([2, 1]);
  });

  test("gives a request without a key a transaction", async () => {
    const note = `unkeyed ${_name}`;
    const app = await appOf(async (_request, _reply, tx) => {
      await insert(tx, note);
      return "done";
    });
    expect((await call(app, { body })).bytes.toString()).toBe("done");
    expect(await rows(note)).toBe(1);
  });

  test("carries steps, once", async () => {
    const app = await newApp();
    const note = `steps ${_name}`;
    const handler = app.idempotent.steps("checkout", async (request, steps) => {
      await steps.transaction("insert", (tx) => insert(tx, note));
      return { status: 201, body: { shop: request.params["shop"], body: request.body } };
    });
    app.post("/checkouts/:shop", handler);
    const sent = { url: "/checkouts/berlin", key: newKey(), body };
    const first = await call(app, sent);
    const second = await call(app, sent);
    expect([first.status, first.json()]).toEqual([201, { shop: "berlin", body }]);
    expect(second.bytes.equals(first.bytes)).toBe(true);
    expect(second.headers["idempotent-replayed"]).toBe("true");
    expect(await rows(note)).toBe(1);
  });
});
