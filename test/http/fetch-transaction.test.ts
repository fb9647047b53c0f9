/** Transaction and steps routes of `oncekey/fetch`, as functions and in Hono, over real sockets on Postgres. */
import { Hono } from "hono";
import type { Context } from "hono";
import pg from "pg";
import type { PoolClient } from "pg";

import { idempotentFetch } from "../../src/fetch.js";
import type { FetchIdempotency, FetchOptions, IdempotencyContext } from "../../src/fetch.js";
import type { TransactionRouteOptions } from "../../src/index.js";
import { migrate, postgresStore } from "../../src/stores/postgres.js";
import { useDatabase } from "../support/databases.js";
import { serveFetch } from "../support/fetch-server.js";
import type { FetchServer } from "../support/fetch-server.js";
import { startTcpProxy } from "../support/tcp-proxy.js";

const database = useDatabase({
  prepare: async (pool) => {
    await migrate({ pool });
    await pool.query("CREATE TABLE orders (note text)");
  },
});

type Handler = (
  tx: PoolClient,
  request: Request,
  idempotency: IdempotencyContext | undefined,
) => Response | Promise<Response>;
type Mount = (
  idempotent: FetchIdempotency,
  handler: Handler,
  route: TransactionRouteOptions<PoolClient, Request>,
) => (request: Request) => Response | Promise<Response>;

/** A function whose server renders what it throws, as frameworks do; and Hono. */
const mounts: Record<string, Mount> = {
  "a plain function": (idempotent, handler, route) => {
    const post = idempotent.transaction(route, (request, tx) =>
      handler(tx, request, request.idempotency),
    );
    return (request) =>
      post(request).catch((error: Error) =>
        Response.json({ rendered: error.message }, { status: 500 }),
      );
  },
  Hono: (idempotent, handler, route) => {
    const app = new Hono();
    app.post(
      "*",
      idempotent.hono.transaction(route, (c, tx) =>
        handler(tx, c.req.raw, (c.req.raw as { idempotency?: IdempotencyContext }).idempotency),
      ),
    );
    app.onError((error, c) => c.json({ rendered: error.message }, 500));
    return (request) => app.fetch(request);
  },
};

const servers: FetchServer[] = [];
const instances: FetchIdempotency[] = [];
let counter = 0;

afterEach(async () => {
  await Promise.all(servers.splice(0).map((server) => server.close()));
  await Promise.all(instances.splice(0).map((instance) => instance.close()));
  await database.pool.query("DELETE FROM orders");
});

const notes = async (): Promise<string[]> => {
  const { rows } = await database.pool.query<{ note: string }>("SELECT note FROM orders");
  return rows.map(({ note }) => note);
};

async function open(
  mount: (idempotent: FetchIdempotency) => ReturnType<Mount>,
  options: Partial<FetchOptions> = {},
) {
  const idempotent = idempotentFetch({
    store: postgresStore({ pool: database.pool }),
    scope: "global",
    workers: false,
    ...options,
  });
  instances.push(idempotent);
  const server = await serveFetch(mount(idempotent));
  servers.push(server);
  counter += 1;
  const key = `tx-${counter}-of-this-file`;
  const post = async (sent: string | null = key) => {
    const response = await fetch(server.url, {
      method: "POST",
      headers: {
        "content-type": "application/json",
        ...(sent === null ? {} : { "idempotency-key": sent }),
      },
      body: '{"note":"pens"}',
    });
    const { status, headers } = response;
    return { status, headers, text: await response.text() };
  };
  return { post, key };
}

describe.each(Object.entries(mounts))("%s", (_name, mount) => {
  test("commits key, rows and response together, and replays", async () => {
    let runs = 0;
    const { post, key } = await open((idempotent) =>
      mount(
        idempotent,
        async (tx, request, idempotency) => {
          runs += 1;
          const { note } = (await request.json()) as { note: string };
          await tx.query("INSERT INTO orders VALUES ($1)", [note]);
          return Response.json({ run: runs, key: idempotency?.key }, { status: 201 });
        },
        {},
      ),
    );
    const first = await post();
    const second = await post();
    expect([first.status, first.text]).toEqual([201, JSON.stringify({ run: 1, key })]);
    expect([second.status, second.text]).toEqual([first.status, first.text]);
    expect(second.headers.get("idempotent-replayed")).toBe("true");
    expect(second.headers.get("idempotency-expires")).toBe(
      first.headers.get("idempotency-expires"),
    );
    expect(await notes()).toEqual(["pens"]);
    await post(null);
    expect(await notes()).toEqual(["pens", "pens"]);
  });

  test("takes back what was written on a throw, a 5xx, a release, a stream and a broken body, and runs again", async () => {
    let runs = 0;
    const bodies: ((idempotency: IdempotencyContext | undefined) => Response)[] = [
      () => {
        throw new Error("boom");
      },
      () => Response.json({}, { status: 502 }),
      (idempotency) => {
        idempotency?.release();
        return Response.json({});
      },
      () =>
        new Response(new ReadableStream(), { headers: { "content-type": "text/event-stream" } }),
      () =>
        new Response(
          new ReadableStream({ pull: (controller) => controller.error(new Error("broken")) }),
        ),
      () => new Response("x".repeat(2_000)),
      () => Response.json({ done: true }),
    ];
    const { post } = await open((idempotent) =>
      mount(
        idempotent,
        async (tx, _request, idempotency) => {
          const body = bodies[runs] as (typeof bodies)[0];
          runs += 1;
          await tx.query("INSERT INTO orders VALUES ($1)", [`run ${runs}`]);
          return body(idempotency);
        },
        { maxResponseBytes: 1_000 },
      ),
    );
    const answers: [number, string][] = [];
    for (let tries = 0; tries < 8; tries += 1) {
      const { status, text } = await post();
      answers.push([status, text]);
    }
    expect(answers.map(([status]) => status)).toEqual([500, 502, 200, 500, 500, 500, 200, 200]);
    expect(answers[0]?.[1]).toBe('{"rendered":"boom"}');
    expect(runs).toBe(7);
    expect(await notes()).toEqual(["run 7"]);
  });

  test("runs again over a conflict, with the body there once more and nothing of the first run in the response", async () => {
    let runs = 0;
    const read: unknown[] = [];
    const { post } = await open((idempotent) =>
      mount(
        idempotent,
        async (tx, request) => {
          runs += 1;
          read.push(await request.json());
          await tx.query("INSERT INTO orders VALUES ('again')");
          if (runs % 3 !== 0)
            await tx.query("DO $$ BEGIN RAISE EXCEPTION 'refused' USING ERRCODE = '40001'; END $$");
          return Response.json({ run: runs });
        },
        {},
      ),
    );
    expect([(await post()).text, (await post()).text]).toEqual(['{"run":3}', '{"run":3}']);
    expect((await post(null)).text).toBe('{"run":6}');
    expect(read).toEqual(Array.from({ length: 6 }, () => ({ note: "pens" })));
    expect(await notes()).toEqual(["again", "again"]);
  });

  test("answers when the handler's time is up, and commits nothing of it", async () => {
    let release: () => void = () => undefined;
    const gate = new Promise<void>((resolve) => (release = resolve));
    const { post } = await open((idempotent) =>
      mount(
        idempotent,
        async (tx) => {
          await tx.query("INSERT INTO orders VALUES ('late')");
          await gate;
          return Response.json({});
        },
        { transactionTimeoutMs: 200 },
      ),
    );
    const { status, text } = await post();
    expect([status, JSON.parse(text)]).toEqual([
      500,
      expect.objectContaining({ code: "transaction_failed", retryable: true }),
    ]);
    release();
    expect(await notes()).toEqual([]);
  });

  test("finds out what became of a COMMIT whose reply was lost", async () => {
    const proxy = await startTcpProxy({ target: database.url });
    const pool = new pg.Pool({ connectionString: proxy.via(database.url), max: 4 });
    pool.on("error", () => undefined);
    let runs = 0;
    const { post } = await open(
      (idempotent) =>
        mount(
          idempotent,
          async (tx) => {
            runs += 1;
            await tx.query("INSERT INTO orders VALUES ('once')");
            return Response.json({ run: runs });
          },
          {},
        ),
      { store: postgresStore({ pool }) },
    );
    const cut = proxy.cutAt("commit");
    const first = await post();
    await cut;
    const second = await post();
    expect([first.status, first.text, second.text]).toEqual([200, '{"run":1}', '{"run":1}']);
    expect([runs, await notes()]).toEqual([1, ["once"]]);
    await Promise.all(instances.splice(0).map((instance) => instance.close()));
    await pool.end();
    await proxy.close();
  });
});

describe("in Hono", () => {
  test("what a run that was taken back said of the response is not in the next one's", async () => {
    let runs = 0;
    const { post } = await open((idempotent) => {
      const app = new Hono();
      app.use(async (c, next) => {
        c.header("x-outer", "kept");
        await next();
      });
      app.post(
        "/",
        idempotent.hono.transaction(async (c, tx) => {
          runs += 1;
          const context = c as unknown as Context;
          context.header("x-run", String(runs), { append: true });
          if (runs === 1) {
            context.status(402);
            await tx.query("DO $$ BEGIN RAISE EXCEPTION 'refused' USING ERRCODE = '40001'; END $$");
          }
          return context.json({ run: runs });
        }),
      );
      return (request) => app.fetch(request);
    });
    for (const { status, headers } of [await post(), await post()]) {
      expect([status, headers.get("x-run"), headers.get("x-outer")]).toEqual([200, "2", "kept"]);
    }
  });
});

describe("steps", () => {
  test.each(["a function", "Hono"])("%s keeps the request and replays the reply", async (kind) => {
    const seen: unknown[] = [];
    const { post } = await open((idempotent) => {
      const handler = async (request: { body: unknown; params: unknown; query: unknown }) => {
        seen.push(request);
        return { status: 201, body: { body: request.body, params: request.params } };
      };
      if (kind === "a function") {
        const checkout = idempotent.steps("checkout of a function", handler);
        return (request) => checkout(request, { params: Promise.resolve({ id: "7" }) });
      }
      const app = new Hono();
      app.post("/:id?", idempotent.hono.steps("checkout of Hono", handler));
      return (request) => app.fetch(new Request(`${request.url}7`, request));
    });
    const first = await post();
    const second = await post();
    expect([first.status, JSON.parse(first.text)]).toEqual([
      201,
      { body: { note: "pens" }, params: { id: "7" } },
    ]);
    expect(second.text).toBe(first.text);
    expect(second.headers.get("idempotent-replayed")).toBe("true");
    expect(seen).toHaveLength(1);
  });
});
