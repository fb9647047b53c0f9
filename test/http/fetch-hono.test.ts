/** `oncekey/fetch` among Hono's own middleware, and what only functions and only Hono can do. */
import { Hono } from "hono";
import type { Context } from "hono";
import { setCookie } from "hono/cookie";
import { cors } from "hono/cors";
import { requestId } from "hono/request-id";
import { secureHeaders } from "hono/secure-headers";

import { idempotentFetch } from "../../src/fetch.js";
import type { FetchOptions, Idempotent, IdempotencyVariables } from "../../src/fetch.js";
import { memoryStore } from "../../src/stores/memory.js";
import { waitFor } from "../support/wait-for.js";

const open = (options: Partial<FetchOptions> = {}) =>
  idempotentFetch({ store: memoryStore(), scope: "global", workers: false, ...options });

let counter = 0;
const newKey = (): string => `hono-${(counter += 1)}-of-this-file`;

const toRequest = (key: string, headers: Record<string, string> = {}): Request =>
  new Request("http://api.test/orders/7", {
    method: "POST",
    body: "{}",
    headers: { "content-type": "application/json", "idempotency-key": key, ...headers },
  });

test("a replay has the headers that its own request is given in front, and none of the first one's", async () => {
  const app = new Hono<{ Variables: IdempotencyVariables }>();
  let runs = 0;
  app.use(requestId(), cors({ origin: (origin) => origin, credentials: true }), secureHeaders());
  app.use(async (c, next) => {
    setCookie(c, "outer", c.req.header("x-request-id") ?? "");
    c.header("x-taken", "away");
    await next();
    c.header("x-after", c.req.header("x-request-id"));
  });
  app.post(
    "/orders/:id",
    open({ scope: (_request, c: Context) => c.req.param("id") ?? "" }).hono(),
    (c) => {
      runs += 1;
      setCookie(c, "inner", "secret");
      c.header("x-run", String(runs));
      c.header("x-taken", undefined);
      c.header("x-frame-options", "ALLOW");
      return c.json({ run: runs, scope: c.get("idempotency")?.scope }, 201);
    },
  );
  const key = newKey();
  const first = await app.fetch(toRequest(key, { "x-request-id": "one", origin: "http://a.test" }));
  const second = await app.fetch(
    toRequest(key, { "x-request-id": "two", origin: "http://b.test" }),
  );
  expect([first.status, second.status, runs]).toEqual([201, 201, 1]);
  const text = '{"run":1,"scope":"7"}';
  expect([await first.text(), await second.text()]).toEqual([text, text]);
  const shown = ({ headers }: Response) => [
    headers.get("x-request-id"),
    headers.get("access-control-allow-origin"),
    headers.get("x-after"),
    headers.get("x-taken"),
    headers.get("x-run"),
    headers.get("original-request"),
    headers.get("x-content-type-options"),
    headers.getSetCookie(),
  ];
  expect(shown(first)).toEqual([
    "one",
    "http://a.test",
    "one",
    null,
    "1",
    "one",
    "nosniff",
    ["outer=one; Path=/", "inner=secret; Path=/"],
  ]);
  expect(shown(second)).toEqual([
    "two",
    "http://b.test",
    "two",
    null,
    "1",
    "one",
    "nosniff",
    ["outer=two; Path=/"],
  ]);
});

test("what a handler throws is rendered by the app and stored; what is no Error, by us", async () => {
  const app = new Hono();
  const thrown: unknown[] = [new Error("boom"), "no error"];
  const failures = jest.spyOn(console, "error").mockImplementation(() => undefined);
  let runs = 0;
  app.post("*", open().hono(), () => {
    runs += 1;
    throw thrown[runs - 1];
  });
  app.onError((error, c) => c.json({ rendered: error.message }, 418));
  for (const expected of [
    [418, '{"rendered":"boom"}'],
    [500, '{"type":"about:blank","title":"Internal Server Error","status":500}'],
  ]) {
    const key = newKey();
    for (const replayed of [null, "true"]) {
      const response = await app.fetch(toRequest(key));
      expect([response.status, await response.text()]).toEqual(expected);
      expect(response.headers.get("idempotent-replayed")).toBe(replayed);
    }
  }
  expect(runs).toBe(2);
  expect(failures).toHaveBeenCalledWith("no error");
  failures.mockRestore();
});

test("mounted for the app and again on the route, the outer one holds the claim", async () => {
  const app = new Hono();
  const idempotent = open();
  let runs = 0;
  app.use(idempotent.hono());
  app.post("*", idempotent.hono(), (c) => c.text(String((runs += 1))));
  const key = newKey();
  expect(await (await app.fetch(toRequest(key))).text()).toBe("1");
  expect(await (await app.fetch(toRequest(key))).text()).toBe("1");
});

describe("handlerTimeoutMs", () => {
  test("answers 504 beside a function that goes on, and replays what it comes to", async () => {
    let release: () => void = () => undefined;
    const gate = new Promise<void>((resolve) => (release = resolve));
    let runs = 0;
    const post = open()({ handlerTimeoutMs: 50 }, async () => {
      runs += 1;
      await gate;
      return new Response("done", { status: 201 });
    });
    const key = newKey();
    const first = await post(toRequest(key));
    expect([first.status, await first.json()]).toEqual([
      504,
      expect.objectContaining({ code: "handler_timeout" }),
    ]);
    expect((await post(toRequest(key))).status).toBe(409);
    release();
    await waitFor(async () => (await post(toRequest(key))).status === 201, { what: "a replay" });
    expect([await (await post(toRequest(key))).text(), runs]).toEqual(["done", 1]);
  });

  test("is refused in Hono, which would drop the handler's response", () => {
    expect(() => open({ handlerTimeoutMs: 50 }).hono()).toThrow("handlerTimeoutMs");
    expect(() => open().hono({ handlerTimeoutMs: 50 })).toThrow("handlerTimeoutMs");
  });
});

test("stream: true lets a slow body pass, and stores one that is there at once", async () => {
  let runs = 0;
  let feed: ReadableStreamDefaultController<Uint8Array> | undefined;
  const post = open()({ stream: true }, () => {
    runs += 1;
    return runs === 1
      ? Response.json({ refused: true }, { status: 400 })
      : new Response(new ReadableStream({ start: (controller) => void (feed = controller) }));
  });
  const [whole, streamed] = [newKey(), newKey()];
  await post(toRequest(whole));
  expect((await post(toRequest(whole))).headers.get("idempotent-replayed")).toBe("true");
  const response = await post(toRequest(streamed));
  expect(response.headers.get("idempotency-stored")).toBe("false");
  feed?.enqueue(Buffer.from("late"));
  feed?.close();
  expect(await response.text()).toBe("late");
  expect(await (await post(toRequest(streamed))).json()).toMatchObject({
    code: "response_not_stored",
  });
});

test("a stream whose client is gone is told so, and its key is settled", async () => {
  const cancelled: unknown[] = [];
  const post = open()(
    () =>
      new Response(new ReadableStream({ cancel: (reason) => void cancelled.push(reason) }), {
        headers: { "content-type": "text/event-stream" },
      }),
  );
  const key = newKey();
  await (await post(toRequest(key))).body?.cancel("gone");
  expect(cancelled).toEqual(["gone"]);
  expect(await (await post(toRequest(key))).json()).toMatchObject({ code: "response_not_stored" });
});

test("a handler that returns none is told so, once, and does not run again", async () => {
  const failures = jest.spyOn(console, "error").mockImplementation(() => undefined);
  const post = open()((() => undefined) as unknown as () => Response);
  const key = newKey();
  expect([(await post(toRequest(key))).status, (await post(toRequest(key))).status]).toEqual([
    500, 500,
  ]);
  expect(failures.mock.calls).toEqual([[new TypeError("The handler did not return a Response.")]]);
  failures.mockRestore();
});

test("misuse is found when the routes are made", () => {
  const idempotent = open();
  expect(() => open({ maxRequestBytes: -1 })).toThrow("maxRequestBytes");
  expect(() => open({ scope: undefined as unknown as "global" })).toThrow("scope");
  expect(() => (idempotent as unknown as () => void)()).toThrow("needs a handler");
  expect(() => idempotent.transaction(() => new Response())).toThrow("postgresStore");
});

test("route handlers of Next.js have the types that it checks them by", async () => {
  class NextRequest extends Request {
    readonly nextUrl = new URL(this.url);
  }
  interface RouteContext {
    readonly params: Promise<{ readonly id: string }>;
  }
  const POST: (request: NextRequest, context: RouteContext) => Promise<Response> = open()(
    async (request: Idempotent<NextRequest>, { params }: RouteContext) =>
      Response.json([(await params).id, request.nextUrl.pathname, request.idempotency?.attempt]),
  );
  const response = await POST(new NextRequest(toRequest(newKey())), {
    params: Promise.resolve({ id: "7" }),
  });
  expect(await response.json()).toEqual(["7", "/orders/7", 1]);
});
