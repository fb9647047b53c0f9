/** Plain routes of `oncekey/fetch`, as a plain function and in Hono, over real sockets on Postgres. */
import { once } from "node:events";
import { request as httpRequest } from "node:http";

import { Hono } from "hono";

import { idempotentFetch } from "../../src/fetch.js";
import type { FetchOptions, IdempotencyContext, IdempotencyVariables } from "../../src/fetch.js";
import type { RouteOptions } from "../../src/index.js";
import { migrate, postgresStore } from "../../src/stores/postgres.js";
import { useDatabase } from "../support/databases.js";
import { serveFetch } from "../support/fetch-server.js";
import type { FetchServer } from "../support/fetch-server.js";
import { waitFor } from "../support/wait-for.js";

const database = useDatabase({ prepare: (pool) => migrate({ pool }).then(() => undefined) });

type Handler = (
  request: Request,
  idempotency: IdempotencyContext | undefined,
) => Response | Promise<Response>;

interface Options extends Partial<FetchOptions> {
  readonly route?: RouteOptions<Request>;
}

/** A handler behind the wrapper, and how its app is mounted. */
type Mount = (
  idempotent: ReturnType<typeof idempotentFetch>,
  handler: Handler,
  route?: RouteOptions<Request>,
) => (request: Request) => Response | Promise<Response>;

const mounts: Record<string, Mount> = {
  "a plain function": (idempotent, handler, route = {}) =>
    idempotent(route, (request) => handler(request, request.idempotency)),
  Hono: (idempotent, handler, route) => {
    const app = new Hono<{ Variables: IdempotencyVariables }>();
    app.all("*", idempotent.hono(route), (c) => handler(c.req.raw, c.get("idempotency")));
    app.onError((error, c) => c.json({ rendered: error.message }, 500));
    return (request) => app.fetch(request);
  },
};

const servers: FetchServer[] = [];
const instances: ReturnType<typeof idempotentFetch>[] = [];
let counter = 0;
let failures: jest.SpyInstance;

beforeEach(() => {
  failures = jest.spyOn(console, "error").mockImplementation(() => undefined);
});

afterEach(async () => {
  failures.mockRestore();
  await Promise.all(servers.splice(0).map((server) => server.close()));
  await Promise.all(instances.splice(0).map((instance) => instance.close()));
});

describe.each(Object.entries(mounts))("%s", (_name, mount) => {
  async function open(
    handler: (run: number, ...given: Parameters<Handler>) => ReturnType<Handler>,
    options: Options = {},
  ) {
    const { route, ...rest } = options;
    const idempotent = idempotentFetch({
      store: postgresStore({ pool: database.pool }),
      scope: (request) => request.headers.get("x-tenant") ?? "acme",
      workers: false,
      ...rest,
    });
    instances.push(idempotent);
    let runs = 0;
    const server = await serveFetch(
      mount(
        idempotent,
        (request, idempotency) => {
          runs += 1;
          return handler(runs, request, idempotency);
        },
        route,
      ),
    );
    servers.push(server);
    counter += 1;
    const key = `key-${counter}-of-this-file`;
    const post = async (body: unknown = { amount: 1 }, headers: Record<string, string> = {}) => {
      const response = await fetch(`${server.url}/orders?a=1`, {
        method: "POST",
        headers: { "content-type": "application/json", "idempotency-key": key, ...headers },
        body: typeof body === "string" ? body : JSON.stringify(body),
        redirect: "manual",
      });
      const bytes = Buffer.from(await response.arrayBuffer());
      return {
        response,
        status: response.status,
        headers: response.headers,
        bytes,
        text: bytes.toString(),
      };
    };
    return { post, key, server, runs: () => runs };
  }

  test("runs once and replays the same bytes, status and headers", async () => {
    const { post, key, runs } = await open((run) =>
      Response.json({ run }, { status: 201, headers: { "x-run": String(run), link: "<a>" } }),
    );
    const first = await post();
    const second = await post('{ "amount" : 1 }');
    expect([first.status, first.text]).toEqual([201, '{"run":1}']);
    expect([second.status, second.text]).toEqual([201, '{"run":1}']);
    expect(runs()).toBe(1);
    const of = (headers: Headers) =>
      Object.fromEntries(
        [...headers].filter(([name]) => !["date", "idempotent-replayed"].includes(name)),
      );
    expect(of(second.headers)).toEqual(of(first.headers));
    expect(second.headers.get("x-run")).toBe("1");
    expect(first.headers.get("idempotent-replayed")).toBeNull();
    expect(second.headers.get("idempotent-replayed")).toBe("true");
    expect(second.headers.get("idempotency-key")).toBe(key);
    expect(first.headers.get("original-request")).toMatch(/^req_/);
    expect(Date.parse(first.headers.get("idempotency-expires") ?? "")).toBeGreaterThan(0);
  });

  test("hands the request on unread, with its claim", async () => {
    const { post, key } = await open(async (_run, request, idempotency) =>
      Response.json({
        got: await request.json(),
        key: idempotency?.key,
        scope: idempotency?.scope,
      }),
    );
    const { text } = await post({ amount: 7 });
    expect(JSON.parse(text)).toEqual({ got: { amount: 7 }, key, scope: "acme" });
  });

  test("answers 422 for another request and 409 to 49 of 50 at once", async () => {
    let release: () => void = () => undefined;
    const gate = new Promise<void>((resolve) => (release = resolve));
    const { post, runs } = await open(async () => {
      await gate;
      return Response.json({ id: 1 }, { status: 201 });
    });
    const refusals: Awaited<ReturnType<typeof post>>[] = [];
    const all = Array.from({ length: 50 }, async () => {
      const answer = await post();
      if (answer.status === 409) refusals.push(answer);
      return answer.status;
    });
    await waitFor(() => refusals.length === 49, { what: "49 refusals" });
    for (const { text, headers } of refusals) {
      expect(JSON.parse(text)).toMatchObject({ code: "in_progress" });
      expect(headers.get("retry-after")).toBe("1");
    }
    release();
    expect((await Promise.all(all)).filter((status) => status === 201)).toHaveLength(1);
    expect(runs()).toBe(1);
    const other = await post({ amount: 2 });
    expect(other.status).toBe(422);
    expect(other.headers.get("content-type")).toBe("application/problem+json");
    expect(JSON.parse(other.text)).toMatchObject({ code: "key_reused", differs: ["body.amount"] });
    expect(runs()).toBe(1);
  });

  test("waits and replays where the route says so", async () => {
    let release: () => void = () => undefined;
    const gate = new Promise<void>((resolve) => (release = resolve));
    const { post, runs } = await open(
      async () => {
        await gate;
        return Response.json({ id: 1 });
      },
      { route: { concurrent: { waitMs: 20_000 } } },
    );
    const first = post();
    await waitFor(() => runs() === 1, { what: "the first run" });
    const second = post();
    release();
    expect((await second).text).toBe((await first).text);
    expect(runs()).toBe(1);
  });

  test("stores what a handler throws as it was rendered, and runs nothing again", async () => {
    const { post, runs } = await open(
      (run) => {
        throw new Error(`boom ${run}`);
      },
      {
        onError: (error) => Response.json({ rendered: (error as Error).message }, { status: 500 }),
      },
    );
    const first = await post();
    const second = await post();
    expect([first.status, first.text]).toEqual([500, '{"rendered":"boom 1"}']);
    expect([second.status, second.text]).toEqual([500, '{"rendered":"boom 1"}']);
    expect(second.headers.get("idempotent-replayed")).toBe("true");
    expect(runs()).toBe(1);
  });

  test("stores a plain 500 where nobody can render, and keeps the key", async () => {
    const broken = new Error("the stream broke");
    const { post, runs } = await open(
      () =>
        new Response(
          new ReadableStream({
            pull(controller) {
              controller.error(broken);
            },
          }),
        ),
    );
    const first = await post();
    const second = await post();
    expect(first.status).toBe(500);
    expect(JSON.parse(first.text)).toEqual({
      type: "about:blank",
      title: "Internal Server Error",
      status: 500,
    });
    expect(second.text).toBe(first.text);
    expect(runs()).toBe(1);
    expect(failures).toHaveBeenCalledWith(broken);
  });

  test("gives the key back where the handler, a status or the route says that nothing happened", async () => {
    const { post, runs } = await open(
      (run, _request, idempotency) => {
        if (run === 1) idempotency?.release();
        return Response.json({ run }, { status: [200, 429, 503, 201][run - 1] ?? 201 });
      },
      { route: { releaseOn: [429], serverErrors: "release" } },
    );
    const statuses: number[] = [];
    for (let tries = 0; tries < 5; tries += 1) statuses.push((await post()).status);
    expect(statuses).toEqual([200, 429, 503, 201, 201]);
    expect(runs()).toBe(4);
  });

  test("keeps tenants apart, and refuses missing and repeated keys", async () => {
    const { post, server, runs, key } = await open((run) => Response.json({ run }), {
      route: { required: true },
    });
    expect((await post()).text).toBe('{"run":1}');
    expect((await post({ amount: 1 }, { "x-tenant": "other" })).text).toBe('{"run":2}');
    const missing = await fetch(`${server.url}/orders`, { method: "POST" });
    expect([missing.status, await missing.json()]).toEqual([
      400,
      expect.objectContaining({ code: "key_missing" }),
    ]);
    const twice = httpRequest(`${server.url}/orders`, { method: "POST" });
    twice.setHeader("Idempotency-Key", [key, `${key}-b`]);
    twice.end();
    const [answer] = (await once(twice, "response")) as [
      NodeJS.ReadableStream & { statusCode: number },
    ];
    const chunks: Buffer[] = [];
    for await (const chunk of answer) chunks.push(chunk as Buffer);
    expect(answer.statusCode).toBe(400);
    expect(JSON.parse(Buffer.concat(chunks).toString())).toMatchObject({ code: "key_invalid" });
    expect(runs()).toBe(2);
  });

  test("replays binary bodies, empty ones, redirects and other headers, and never cookies", async () => {
    const binary = Buffer.from(Array.from({ length: 70_000 }, (_, index) => index % 256));
    const responses: (() => Response)[] = [
      () => new Response(binary, { headers: { "content-type": "application/octet-stream" } }),
      () => new Response(null, { status: 204 }),
      () => Response.redirect("https://example.test/orders/1", 303),
      () => new Response("", { status: 200 }),
      () => {
        const headers = new Headers({ vary: "accept", "set-cookie": "session=secret" });
        headers.append("vary", "origin");
        headers.append("set-cookie", "second=2");
        return new Response("cookies", { headers });
      },
    ];
    for (const response of responses) {
      const { post, runs } = await open(() => response());
      const [first, second] = [await post(), await post()];
      expect(second.status).toBe(first.status);
      expect(second.bytes.equals(first.bytes)).toBe(true);
      expect(runs()).toBe(1);
      for (const name of ["content-type", "location", "vary", "content-length"])
        expect([name, second.headers.get(name)]).toEqual([name, first.headers.get(name)]);
      const expected = response();
      expect(first.bytes.equals(Buffer.from(await expected.arrayBuffer()))).toBe(true);
      expect(first.headers.getSetCookie()).toEqual(expected.headers.getSetCookie());
      expect(second.headers.getSetCookie()).toEqual([]);
    }
  });

  test("sends what is larger than may be stored, and never does it again", async () => {
    const chunk = new Uint8Array(40_000).fill(7);
    const { post, runs } = await open(
      () => {
        let left = 5;
        return new Response(
          new ReadableStream({
            pull(controller) {
              if (left === 0) controller.close();
              else controller.enqueue(chunk);
              left -= 1;
            },
          }),
        );
      },
      { route: { maxResponseBytes: 50_000 } },
    );
    const first = await post();
    expect(first.bytes.equals(Buffer.alloc(200_000, 7))).toBe(true);
    expect(first.headers.get("idempotency-stored")).toBe("false");
    const second = await post();
    expect([second.status, JSON.parse(second.text)]).toEqual([
      409,
      expect.objectContaining({ code: "response_not_stored" }),
    ]);
    expect(runs()).toBe(1);
  });

  test("lets server-sent events pass as they come", async () => {
    let feed: ReadableStreamDefaultController<Uint8Array> | undefined;
    const { server, key, post } = await open(
      () =>
        new Response(
          new ReadableStream({
            start(controller) {
              feed = controller;
            },
          }),
          { headers: { "content-type": "text/event-stream" } },
        ),
    );
    const response = await fetch(`${server.url}/orders?a=1`, {
      method: "POST",
      headers: { "content-type": "application/json", "idempotency-key": key },
      body: '{"amount":1}',
    });
    expect(response.headers.get("idempotency-stored")).toBe("false");
    const reader = (response.body as ReadableStream<Uint8Array>).getReader();
    feed?.enqueue(Buffer.from("data: 1\n\n"));
    expect(Buffer.from((await reader.read()).value ?? []).toString()).toBe("data: 1\n\n");
    expect(JSON.parse((await post()).text)).toMatchObject({ code: "in_progress" });
    feed?.close();
    expect((await reader.read()).done).toBe(true);
    await waitFor(
      async () => {
        const { rows } = await database.pool.query(
          "SELECT state FROM idempotency_keys WHERE key = $1",
          [key],
        );
        return rows[0]?.state === "completed";
      },
      { what: "the end of the stream in the row" },
    );
    expect(JSON.parse((await post()).text)).toMatchObject({ code: "response_not_stored" });
  });

  test("finishes for a client that hung up, and replays", async () => {
    let release: () => void = () => undefined;
    const gate = new Promise<void>((resolve) => (release = resolve));
    const { server, key, post, runs } = await open(async (run) => {
      await gate;
      return Response.json({ run });
    });
    const gone = httpRequest(`${server.url}/orders?a=1`, {
      method: "POST",
      headers: { "content-type": "application/json", "idempotency-key": key },
    });
    gone.on("error", () => undefined);
    gone.end('{"amount":1}');
    await waitFor(() => runs() === 1, { what: "the run" });
    gone.destroy();
    release();
    await waitFor(async () => (await post()).headers.get("idempotent-replayed") === "true", {
      what: "a replay",
    });
    expect((await post()).text).toBe('{"run":1}');
    expect(runs()).toBe(1);
  });

  test("passes a request without a key, and runs unprotected while the kill switch is on", async () => {
    const { server, runs } = await open((run) => Response.json({ run }));
    for (const run of [1, 2]) {
      const response = await fetch(`${server.url}/orders`, { method: "POST", body: "x" });
      expect(await response.json()).toEqual({ run });
    }
    expect(runs()).toBe(2);
    const warn = jest.spyOn(process, "emitWarning").mockImplementation(() => undefined);
    const off = await open((run) => Response.json({ run }), { dangerouslyRunWithoutStore: true });
    expect([(await off.post()).text, (await off.post()).text]).toEqual(['{"run":1}', '{"run":2}']);
    expect((await off.post()).headers.get("idempotency-stored")).toBe("false");
    expect(warn).toHaveBeenCalledTimes(1);
    warn.mockRestore();
  });
});
