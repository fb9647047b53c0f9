import { Readable } from "node:stream";

import express from "express";
import request from "supertest";

import { createIdempotency, keepRawBody } from "../../src/index.js";
import type { HttpRequest, Idempotency, TransactionHandler } from "../../src/index.js";
import { migrate, postgresStore } from "../../src/stores/postgres.js";
import { createDatabase } from "../support/databases.js";
import type { Database } from "../support/databases.js";
import { waitFor } from "../support/wait-for.js";

let database: Database;
let idempotent: Idempotency;
let runs = 0;

beforeAll(async () => {
  database = await createDatabase({
    prepare: async (pool) => {
      await migrate({ pool });
      await pool.query("CREATE TABLE orders (id serial PRIMARY KEY, note text UNIQUE)");
    },
  });
  idempotent = createIdempotency({
    store: postgresStore({ pool: database.pool }),
    scope: (req) => String(req.headers["x-tenant"] ?? "acme"),
  });
});

afterAll(async () => {
  await idempotent.close();
  await database.drop();
});

beforeEach(() => {
  runs = 0;
});

function app(handler: express.RequestHandler, route?: Parameters<Idempotency>[0]) {
  const api = express();
  api.use(express.json({ verify: keepRawBody }));
  api.post("/orders", idempotent(route), (req, res, next) => {
    runs += 1;
    return handler(req, res, next);
  });
  api.get("/orders", idempotent(route), (req, res, next) => {
    runs += 1;
    return handler(req, res, next);
  });
  api.use(((error, _req, res, _next) => {
    res.status(500).json({ failed: (error as Error).message });
  }) satisfies express.ErrorRequestHandler);
  return api;
}

let counter = 0;
const newKey = (): string => `key-${(counter += 1)}-of-this-file`;

function post(api: express.Express, key: string | undefined, body: object = { amount: 1 }) {
  const call = request(api).post("/orders").send(body);
  return key === undefined ? call : call.set("Idempotency-Key", key);
}

describe("a plain route", () => {
  test("runs once and replays the same bytes with the headers of a replay", async () => {
    const api = app((_req, res) => {
      res.status(201).set("X-Run", String(runs)).json({ id: "or_1", run: runs });
    });
    const key = newKey();
    const first = await post(api, key);
    const second = await post(api, key);
    expect(first.status).toBe(201);
    expect(second.status).toBe(201);
    expect(second.text).toBe(first.text);
    expect(second.headers["x-run"]).toBe("1");
    expect(runs).toBe(1);
    expect(first.headers["idempotent-replayed"]).toBeUndefined();
    expect(second.headers["idempotent-replayed"]).toBe("true");
    expect(second.headers["idempotency-key"]).toBe(key);
    expect(second.headers["original-request"]).toBe(first.headers["original-request"]);
    expect(second.headers["idempotency-expires"]).toBe(first.headers["idempotency-expires"]);
    expect(Date.parse(String(first.headers["idempotency-expires"]))).toBeGreaterThan(0);
  });

  test("answers 422 with the names of the fields for another request, and runs nothing", async () => {
    const api = app((_req, res) => void res.json({ ok: true }));
    const key = newKey();
    await post(api, key, { amount: 5, card: { number: "4242" } }).expect(200);
    const other = await post(api, key, { amount: 6, card: { number: "4141" } });
    expect(other.status).toBe(422);
    expect(other.headers["content-type"]).toBe("application/problem+json");
    expect(other.body).toMatchObject({
      code: "key_reused",
      retryable: false,
      status: 422,
      differs: ["body.amount", "body.card.number"],
    });
    expect(other.text).not.toContain("4141");
    expect(runs).toBe(1);
  });

  test("answers 409 while the first one runs, to 50 requests at once", async () => {
    let release: () => void = () => undefined;
    const gate = new Promise<void>((resolve) => (release = resolve));
    const api = app(async (_req, res) => {
      await gate;
      res.status(201).json({ id: 1 });
    });
    const server = api.listen(0);
    const key = newKey();
    const refusals: request.Response[] = [];
    const all = Array.from({ length: 50 }, async () => {
      const response = await request(server)
        .post("/orders")
        .set("Idempotency-Key", key)
        .send({ amount: 1 });
      if (response.status === 409) refusals.push(response);
      return response;
    });
    await waitFor(() => refusals.length === 49, { what: "49 refusals" });
    for (const { body, headers } of refusals) {
      expect(body).toMatchObject({ code: "in_progress", retryable: true });
      expect(headers["retry-after"]).toBe("1");
    }
    release();
    const statuses = (await Promise.all(all)).map((response) => response.status);
    expect(statuses.filter((status) => status === 201)).toHaveLength(1);
    expect(statuses.filter((status) => status === 409)).toHaveLength(49);
    expect(runs).toBe(1);
    await new Promise((resolve) => server.close(resolve));
  });

  test("waits for the first one and replays it where the route says so", async () => {
    let release: () => void = () => undefined;
    const gate = new Promise<void>((resolve) => (release = resolve));
    const api = app(
      async (_req, res) => {
        release();
        await new Promise((resolve) => setTimeout(resolve, 50));
        res.status(201).json({ run: runs });
      },
      { concurrent: { waitMs: 5_000 } },
    );
    const key = newKey();
    const server = api.listen(0);
    const send = () => request(server).post("/orders").set("Idempotency-Key", key).send({ a: 1 });
    const first = send().then((response) => response);
    await gate;
    const [one, two] = await Promise.all([first, send()]);
    expect(one.status).toBe(201);
    expect(two.status).toBe(201);
    expect(two.text).toBe(one.text);
    expect(runs).toBe(1);
    await new Promise((resolve) => server.close(resolve));
  });

  test("stores thrown errors as the app's error handler renders them", async () => {
    const api = app(() => {
      throw new Error(`boom ${runs}`);
    });
    const key = newKey();
    const first = await post(api, key);
    const second = await post(api, key);
    expect(first.status).toBe(500);
    expect(second.text).toBe('{"failed":"boom 1"}');
    expect(second.status).toBe(500);
    expect(runs).toBe(1);
  });

  test("gives the key back where the handler says that nothing happened", async () => {
    const api = app((req, res) => {
      if (runs === 1) {
        req.idempotency?.release();
        res.status(429).json({ slow: "down" });
      } else res.status(201).json({ run: runs });
    });
    const key = newKey();
    await post(api, key).expect(429);
    await post(api, key).expect(201, { run: 2 });
    await post(api, key).expect(201, { run: 2 });
    expect(runs).toBe(2);
  });

  test("what a handler sees of its claim can be taken apart, and says what it is as JSON", async () => {
    const key = newKey();
    const seen: unknown[] = [];
    const api = app((req, res) => {
      const { release, downstreamKey, replayUntil, ...own } = req.idempotency ?? {};
      seen.push(JSON.parse(JSON.stringify(req.idempotency)), own, replayUntil);
      seen.push(downstreamKey?.("mail") === req.idempotency?.downstreamKey("mail"));
      release?.();
      res.status(202).json({});
    });
    await post(api, key).expect(202);
    expect(seen.slice(0, 2).map((value) => (value as { key: string }).key)).toEqual([key, key]);
    expect(seen.slice(2)).toEqual([undefined, true]);
    // Released: the same key runs again.
    await post(api, key).expect(202);
    expect(runs).toBe(2);
  });

  test("releases on server errors and listed statuses where the route says so", async () => {
    const api = app(
      (_req, res) => {
        if (runs === 1) res.status(503).json({});
        else if (runs === 2) res.status(429).json({});
        else res.status(201).json({ run: runs });
      },
      { serverErrors: "release", releaseOn: [429] },
    );
    const key = newKey();
    await post(api, key).expect(503);
    await post(api, key).expect(429);
    await post(api, key).expect(201, { run: 3 });
    await post(api, key).expect(201, { run: 3 });
  });

  test("keeps keys of different tenants apart", async () => {
    const api = app((req, res) => void res.json({ tenant: req.headers["x-tenant"] }));
    const key = newKey();
    await post(api, key).set("x-tenant", "a").expect(200, { tenant: "a" });
    await post(api, key).set("x-tenant", "b").expect(200, { tenant: "b" });
    await post(api, key).set("x-tenant", "a").expect(200, { tenant: "a" });
    expect(runs).toBe(2);
  });

  test("lets requests without a key pass, or refuses them where it is required", async () => {
    await post(
      app((_req, res) => void res.json({ run: runs })),
      undefined,
    ).expect(200);
    const strict = app((_req, res) => void res.json({}), { required: true });
    const refused = await post(strict, undefined);
    expect(refused.status).toBe(400);
    expect(refused.body.code).toBe("key_missing");
  });

  test("ignores the header on GET", async () => {
    const api = app((_req, res) => void res.json({ run: runs }));
    const key = newKey();
    await request(api).get("/orders").set("Idempotency-Key", key).expect({ run: 1 });
    await request(api).get("/orders").set("Idempotency-Key", key).expect({ run: 2 });
  });

  test("refuses a body that nobody parsed as a set-up error", async () => {
    const api = express();
    api.post("/orders", idempotent(), (_req, res) => void res.json({}));
    api.use(((error, _req, res, _next) => {
      res.status(500).json({ code: (error as { code: string }).code });
    }) satisfies express.ErrorRequestHandler);
    await post(api, newKey()).expect(500, { code: "body_not_parsed" });
  });

  test("does not take two numbers beyond 2^53 for one", async () => {
    const api = app((_req, res) => void res.json({ run: runs }));
    const key = newKey();
    const send = (amount: string) =>
      request(api)
        .post("/orders")
        .set("Idempotency-Key", key)
        .set("Content-Type", "application/json")
        .send(`{"amount":${amount}}`);
    await send("9007199254740993").expect(200);
    const other = await send("9007199254740992");
    expect(other.status).toBe(422);
    await send("9007199254740993").expect(200, { run: 1 });
  });

  test("sends and stores whatever a Node response can do", async () => {
    const handlers: Record<string, express.RequestHandler> = {
      empty: (_req, res) => void res.status(204).end(),
      end: (_req, res) => void res.end("text"),
      writes: (_req, res) => {
        res.write("one ");
        res.write(Buffer.from("two "));
        res.end("three");
      },
      binary: (_req, res) =>
        void res.type("application/octet-stream").send(Buffer.from([0, 255, 254, 10, 13])),
      writeHead: (_req, res) =>
        void res.writeHead(202, "Fine", ["X-A", "1", "X-A", "2", "Link", "<a>"]).end("x"),
      pipe: (_req, res) => void Readable.from([Buffer.from("a"), Buffer.from("b")]).pipe(res),
      redirect: (_req, res) => res.redirect(303, "/elsewhere"),
      file: (_req, res) => res.sendFile("package.json", { root: process.cwd() }),
    };
    for (const [name, handler] of Object.entries(handlers)) {
      const api = app(handler);
      const key = newKey();
      const first = await post(api, key).redirects(0);
      const second = await post(api, key).redirects(0);
      const strip = ({
        date: _date,
        "idempotent-replayed": _replayed,
        ...rest
      }: Record<string, string>) => rest;
      expect([name, second.headers["idempotent-replayed"]]).toEqual([name, "true"]);
      expect([name, second.status, second.text, second.body, strip(second.headers)]).toEqual([
        name,
        first.status,
        first.text,
        first.body,
        strip(first.headers),
      ]);
    }
  });

  test("answers response_not_stored for a body beyond the maximum, and never runs it again", async () => {
    const api = app((_req, res) => void res.send("x".repeat(2_000)), { maxResponseBytes: 1_000 });
    const key = newKey();
    const first = await post(api, key);
    expect(first.text).toHaveLength(2_000);
    expect(first.headers["idempotency-stored"]).toBe("false");
    const second = await post(api, key);
    expect(second.status).toBe(409);
    expect(second.body.code).toBe("response_not_stored");
    expect(runs).toBe(1);
  });
});

describe("a transaction route", () => {
  function charges(handler: TransactionHandler<HttpRequest, express.Response>) {
    const api = express();
    api.use(express.json());
    api.post("/orders", idempotent.transaction(handler));
    api.use(((error, _req, res, _next) => {
      res.status(500).json({ failed: (error as Error).message });
    }) satisfies express.ErrorRequestHandler);
    return api;
  }
  const count = async (note: string): Promise<number> => {
    const result = await database.pool.query("SELECT FROM orders WHERE note = $1", [note]);
    return result.rowCount ?? 0;
  };

  test("commits the rows with the response and replays it", async () => {
    const key = newKey();
    const api = charges(async (_req, res, tx) => {
      runs += 1;
      const inserted = await tx.query<{ id: number }>(
        "INSERT INTO orders (note) VALUES ($1) RETURNING id",
        [key],
      );
      res.status(201).json({ id: inserted.rows[0]?.id });
    });
    const first = await post(api, key).expect(201);
    const second = await post(api, key).expect(201);
    expect(second.text).toBe(first.text);
    expect(second.headers["idempotent-replayed"]).toBe("true");
    expect(runs).toBe(1);
    expect(await count(key)).toBe(1);
  });

  test("leaves nothing behind after a throw, a 5xx, or a COMMIT of its own, and runs again", async () => {
    const key = newKey();
    const api = charges(async (_req, res, tx) => {
      runs += 1;
      await tx.query("INSERT INTO orders (note) VALUES ($1)", [key]);
      if (runs === 1) throw new Error("broken");
      if (runs === 2) return res.status(502).json({});
      if (runs === 3) await tx.query("/* quietly */ COMMIT");
      return res.status(201).json({ run: runs });
    });
    await post(api, key).expect(500, { failed: "broken" });
    await post(api, key).expect(502);
    expect(await count(key)).toBe(0);
    const third = await post(api, key);
    expect(third.status).toBe(500);
    expect(await count(key)).toBe(0);
    await post(api, key).expect(201, { run: 4 });
    await post(api, key).expect(201, { run: 4 });
    expect(await count(key)).toBe(1);
  });

  test("rolls back when the transaction was aborted behind a swallowed error", async () => {
    const key = newKey();
    const api = charges(async (_req, res, tx) => {
      await tx.query("INSERT INTO orders (note) VALUES ($1)", [key]);
      await tx.query("SELECT 1 / 0").catch(() => undefined);
      res.status(201).json({});
    });
    const response = await post(api, key);
    expect(response.status).toBe(500);
    expect(await count(key)).toBe(0);
  });

  test("holds a second request off while it runs, without waiting for its lock", async () => {
    const key = newKey();
    let started: () => void = () => undefined;
    let finish: () => void = () => undefined;
    const running = new Promise<void>((resolve) => (started = resolve));
    const gate = new Promise<void>((resolve) => (finish = resolve));
    const api = charges(async (_req, res, tx) => {
      await tx.query("INSERT INTO orders (note) VALUES ($1)", [key]);
      started();
      await gate;
      res.status(201).json({});
    });
    const first = post(api, key).then((response) => response);
    await running;
    const other = createIdempotency({
      store: postgresStore({ pool: database.pool }),
      scope: () => "acme",
    });
    const elsewhere = express();
    elsewhere.use(express.json());
    elsewhere.post(
      "/orders",
      other.transaction(() => undefined),
    );
    expect((await post(elsewhere, key)).body.code).toBe("in_progress");
    finish();
    expect((await first).status).toBe(201);
    expect((await post(elsewhere, key)).headers["idempotent-replayed"]).toBe("true");
    await other.close();
  });
});
