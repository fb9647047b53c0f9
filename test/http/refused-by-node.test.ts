/** What Node refuses to write is refused before it is stored, so that an error handler can still answer, and a replay can leave. */
import { once } from "node:events";

import express from "express";
import request from "supertest";

import type { Store } from "../../src/core/ports.js";
import { idempotentFetch } from "../../src/fetch.js";
import { createIdempotency } from "../../src/index.js";
import { memoryStore } from "../../src/stores/memory.js";
import { migrate, postgresStore } from "../../src/stores/postgres.js";
import { useDatabase } from "../support/databases.js";
import { keyedApp } from "./keyed-app.js";

const database = useDatabase({ prepare: (pool) => migrate({ pool }) });
const price = "costs 5 €";

/** A memory store that holds responses as an older version stored them. */
function storedWith(statusMessage: string): Store {
  const store = memoryStore();
  return {
    ...store,
    complete: (claim, completion) => {
      const { response } = completion;
      return store.complete(
        claim,
        response === "not_stored"
          ? completion
          : { ...completion, response: { ...response, statusMessage } },
      );
    },
  };
}

describe("a reason phrase", () => {
  test.each([
    ["of a response that is stored", 10],
    ["of one that is too large for it", 4_000],
  ])("%s is an error of the handler's", async (_which, bytes) => {
    const { post } = keyedApp(
      (_req, res) => {
        res.statusMessage = price;
        res.status(402).send("x".repeat(bytes));
      },
      { options: { maxResponseBytes: 1_024 } },
    );
    const bare = await post(undefined);
    expect(bare.status).toBe(500);
    const first = await post("phrase");
    expect([first.status, first.text]).toEqual([500, bare.text]);
    const replay = await post("phrase");
    expect([replay.status, replay.text]).toEqual([500, bare.text]);
    expect(replay.headers["idempotent-replayed"]).toBe("true");
  });

  test("that Node takes is sent and replayed", async () => {
    const { post } = keyedApp((_req, res) => {
      res.statusMessage = "Größe fehlt\t!";
      res.status(402).json({});
    });
    for (const _time of ["first", "replay"]) {
      const response = await post("umlaut");
      expect(response.status).toBe(402);
      expect((response as unknown as { res: { statusMessage: string } }).res.statusMessage).toBe(
        "Größe fehlt\t!",
      );
    }
  });

  test("that was stored once is left out of the replay", async () => {
    const { post } = keyedApp((_req, res) => void res.status(201).json({ id: 1 }), {
      options: { store: storedWith(price) },
    });
    await post("older").expect(201);
    const replay = await post("older").expect(201, { id: 1 });
    expect(replay.headers["idempotent-replayed"]).toBe("true");
  });

  test("that was stored once is left out of the replay of a fetch handler", async () => {
    const idempotent = idempotentFetch({ store: storedWith(price), scope: "global" });
    const handle = idempotent(() => new Response("done", { status: 201 }));
    const headers = { "Idempotency-Key": "older" };
    const send = () => handle(new Request("http://localhost/", { method: "POST", headers }));
    await send();
    const replay = await send();
    expect([replay.status, replay.statusText, await replay.text()]).toEqual([201, "", "done"]);
  });
});

test("a reason phrase on a transaction route rolls back", async () => {
  const idempotent = createIdempotency({
    store: postgresStore({ pool: database.pool }),
    scope: "global",
    workers: false,
  });
  const app = express().set("env", "test");
  app.use(express.json());
  app.post(
    "/charges",
    idempotent.transaction((_req, res) => {
      res.statusMessage = price;
      res.status(201).json({});
    }),
  );
  await request(app).post("/charges").set("Idempotency-Key", "phrase").send({}).expect(500);
  expect(await idempotent.find({ scope: "global", key: "phrase" })).toBeUndefined();
  await idempotent.close();
});

describe("a chunk that is none", () => {
  const unknowing = (
    res: express.Response,
    how: "write" | "end",
    ...args: readonly unknown[]
  ): unknown => Reflect.apply(res[how] as (...given: readonly unknown[]) => unknown, res, args);

  test.each(["write", "end"] as const)("of %s is an error of the handler's", async (how) => {
    const { post } = keyedApp((_req, res) => void unknowing(res, how, { id: 1 }));
    expect((await post(undefined)).status).toBe(500);
    expect((await post("chunk")).status).toBe(500);
    const replay = await post("chunk");
    expect([replay.status, replay.headers["idempotent-replayed"]]).toEqual([500, "true"]);
  });

  test.each<[string, unknown, unknown, string]>([
    ["an object", { done: true }, undefined, "a and ERR_INVALID_ARG_TYPE"],
    ["a text in no encoding", "x", "bogus", "ax"],
  ])("that ends a stream, %s, is told to the handler", async (_what, chunk, encoding, body) => {
    const { post } = keyedApp(
      async (_req, res) => {
        res.type("text/plain").write("a");
        await once(res, "drain");
        try {
          unknowing(res, "end", chunk, encoding);
        } catch (error) {
          res.end(` and ${(error as { code?: string }).code}`);
        }
      },
      { options: { stream: true } },
    );
    const response = await post("stream");
    expect([response.status, response.text]).toEqual([200, body]);
  });
});

test("a request id that no header can carry is not sent", async () => {
  const { post } = keyedApp((_req, res) => void res.status(201).json({}), {
    front: (req, _res, next) => {
      Object.assign(req, { id: "bestellung-€-1" });
      next();
    },
  });
  const first = await post("id");
  expect([first.status, first.headers["original-request"]]).toEqual([
    201,
    expect.stringMatching(/^req_/),
  ]);
  const replay = await post("id");
  expect([replay.status, replay.headers["original-request"]]).toEqual([
    201,
    first.headers["original-request"],
  ]);
});
