/** What of a body `oncekey/fetch` compares, and that the handler still reads it. */
import express from "express";
import { Hono } from "hono";
import { validator } from "hono/validator";
import request from "supertest";

import { idempotentFetch, isIdempotencyError } from "../../src/fetch.js";
import type { FetchOptions, Idempotent } from "../../src/fetch.js";
import { createIdempotency, keepRawBody } from "../../src/index.js";
import { memoryStore } from "../../src/stores/memory.js";

interface Sent {
  readonly body: string | Uint8Array<ArrayBuffer> | FormData;
  readonly type?: string;
  readonly headers?: Record<string, string>;
}

const open = (options: Partial<FetchOptions> = {}) =>
  idempotentFetch({ store: memoryStore(), scope: "global", workers: false, ...options });

const toRequest = ({ body, type, headers = {} }: Sent): Request =>
  new Request("http://api.test/orders", {
    method: "POST",
    body,
    headers: {
      "idempotency-key": "key-of-a-body",
      ...(type === undefined ? {} : { "content-type": type }),
      ...headers,
    },
  });

/** Answers of two requests under one key: replayed, or the fields that differ. */
async function compare(first: Sent, second: Sent): Promise<unknown> {
  const post = open()(async (given) => new Response(await given.arrayBuffer()));
  const one = await post(toRequest(first));
  expect(one.status).toBe(200);
  const other = await post(toRequest(second));
  if (other.status === 200) return other.headers.get("idempotent-replayed");
  return ((await other.json()) as { differs: string[] }).differs;
}

function form(entries: Record<string, string | File>): FormData {
  const data = new FormData();
  for (const [name, value] of Object.entries(entries)) data.append(name, value);
  return data;
}

const json = "application/json";
const urlencoded = "application/x-www-form-urlencoded";

test.each<[string, Sent, Sent]>([
  [
    "JSON in another order",
    { body: '{"a":1,"b":2}', type: json },
    { body: '{ "b":2, "a":1 }', type: json },
  ],
  [
    "JSON with a parameter",
    { body: "{}", type: json },
    { body: "{ }", type: `${json}; charset=utf-8` },
  ],
  [
    "a +json type",
    { body: '{"a":1}', type: "application/x+json" },
    { body: '{ "a":1}', type: "application/x+json" },
  ],
  [
    "a form in another order",
    { body: "a=1&b=2&b=3", type: urlencoded },
    { body: "b=2&a=%31&b=3", type: urlencoded },
  ],
  [
    "a multipart form with another boundary",
    { body: form({ a: "1" }) },
    { body: form({ a: "1" }) },
  ],
  [
    "the same file",
    { body: form({ a: "1", file: new File(["same"], "a.txt", { type: "text/plain" }) }) },
    { body: form({ a: "1", file: new File(["same"], "a.txt", { type: "text/plain" }) }) },
  ],
  [
    "the same bytes",
    { body: new Uint8Array([0, 255]), type: "image/png" },
    { body: new Uint8Array([0, 255]), type: "image/png" },
  ],
])("takes %s for the same request", async (_name, first, second) => {
  expect(await compare(first, second)).toBe("true");
});

test.each<[string, Sent, Sent, string[]]>([
  ["an amount", { body: '{"a":1}', type: json }, { body: '{"a":2}', type: json }, ["body.a"]],
  [
    "numbers beyond 2^53",
    { body: '{"a":9007199254740993}', type: json },
    { body: '{"a":9007199254740992}', type: json },
    ["body.a"],
  ],
  ["JSON that is none", { body: "{a", type: json }, { body: "{b", type: json }, ["body"]],
  [
    "a field of a form",
    { body: "a=1", type: urlencoded },
    { body: "a=2", type: urlencoded },
    ["body.a"],
  ],
  [
    "what a form's parser would replace",
    { body: "a=%ff", type: urlencoded },
    { body: "a=%fe", type: urlencoded },
    ["body"],
  ],
  [
    "bytes that are no UTF-8",
    { body: new Uint8Array([34, 255, 34]), type: json },
    { body: new Uint8Array([34, 254, 34]), type: json },
    ["body"],
  ],
  [
    "the content of a file",
    { body: form({ f: new File(["a"], "n") }) },
    { body: form({ f: new File(["b"], "n") }) },
    ["body.file.f"],
  ],
  [
    "the name of a file",
    { body: form({ f: new File(["a"], "n") }) },
    { body: form({ f: new File(["a"], "m") }) },
    ["body.file.f"],
  ],
  [
    "the encoding",
    { body: "x", type: "text/plain" },
    { body: "x", type: "text/plain", headers: { "content-encoding": "br" } },
    ["content_encoding"],
  ],
  [
    "the type",
    { body: "x", type: "text/plain" },
    { body: "x", type: "text/html" },
    ["content_type"],
  ],
])("tells %s apart", async (_name, first, second, differs) => {
  expect(await compare(first, second)).toEqual(differs);
});

test.each<[string, { readonly body: string; readonly type: string }]>([
  ["JSON", { body: '{"a":[1,9007199254740993],"b":"é"}', type: json }],
  ["a form", { body: "a=1&a=2&b=x+y", type: urlencoded }],
  ["text", { body: "plain", type: "text/plain" }],
])("compares %s as the Express middleware does, on one store", async (_name, sent) => {
  const store = memoryStore();
  const api = express();
  api.use(express.json({ verify: keepRawBody }), express.urlencoded(), express.text());
  api.post(
    "/orders",
    createIdempotency({ store, scope: "global", workers: false })(),
    (_req, res) => void res.status(201).send("by Express"),
  );
  await request(api)
    .post("/orders")
    .set({ "Idempotency-Key": "key-of-a-body", "Content-Type": sent.type })
    .send(sent.body)
    .expect(201);
  const post = open({ store })(() => new Response("by fetch"));
  const replay = await post(toRequest(sent));
  expect([replay.status, await replay.text()]).toEqual([201, "by Express"]);
});

test("refuses a body that is larger than may be held, declared or not", async () => {
  let runs = 0;
  const post = open({ maxRequestBytes: 1_000 })(async (given) => {
    runs += 1;
    return new Response(await given.text());
  });
  const body = "x".repeat(1_001);
  for (const sent of [{ body }, { body, headers: { "content-length": "1001" } }]) {
    const response = await post(toRequest(sent));
    expect([response.status, await response.json()]).toEqual([
      413,
      expect.objectContaining({ code: "request_too_large", retryable: false }),
    ]);
  }
  expect(runs).toBe(0);
  expect(await (await post(toRequest({ body: body.slice(1) }))).text()).toBe(body.slice(1));
});

test("a body that was read in front is a set-up error, and not an empty one", async () => {
  const post = open()(() => new Response("ran"));
  const given = toRequest({ body: '{"a":1}', type: json });
  await given.text();
  await expect(post(given)).rejects.toMatchObject({ code: "body_not_parsed", status: 500 });
  await expect(post(given).catch(isIdempotencyError)).resolves.toBe(true);
});

test("a key that could be two is refused", async () => {
  const post = open()(() => new Response("ran"));
  for (const key of ["a, b", '"a, b"']) {
    const response = await post(toRequest({ body: "x", headers: { "idempotency-key": key } }));
    expect([key, response.status]).toEqual([key, 400]);
  }
  const comma = await post(toRequest({ body: "x", headers: { "idempotency-key": "a,b" } }));
  expect(comma.status).toBe(200);
});

test("the same Request handed in twice does not run twice", async () => {
  let runs = 0;
  const post = open()(() => new Response(String((runs += 1))));
  const given = toRequest({ body: "x" });
  const [one, two] = [await post(given), await post(given)];
  expect([await one.text(), await two.text(), runs]).toEqual(["1", "1", 1]);
});

test("the handler gets the framework's own object, also when it stands behind two wrappers", async () => {
  class FrameworkRequest extends Request {
    readonly nextUrl = "/orders";
  }
  const idempotent = open();
  const seen: unknown[] = [];
  const inner = idempotent((given: Idempotent<FrameworkRequest>, context: { id: string }) => {
    seen.push(given.nextUrl, context.id, given.idempotency?.key);
    return new Response("ran");
  });
  const outer = idempotent(inner);
  const given = new FrameworkRequest(toRequest({ body: "x" }));
  expect(await (await outer(given, { id: "7" })).text()).toBe("ran");
  expect(seen).toEqual(["/orders", "7", "key-of-a-body"]);
  await expect(
    outer(new FrameworkRequest(toRequest({ body: "y" })), { id: "7" }),
  ).resolves.toMatchObject({ status: 422 });
});

describe("Hono with a validator in front that has read the body", () => {
  function api(target: "json" | "form") {
    const app = new Hono();
    app.post(
      "/orders",
      validator(target, (value) => value as Record<string, unknown>),
      open().hono(),
      async (c) => c.json(c.req.valid(target) as object),
    );
    return app;
  }

  test.each<["json" | "form", Sent, Sent]>([
    [
      "json",
      { body: '{"a":9007199254740993}', type: json },
      { body: '{"a":9007199254740992}', type: json },
    ],
    ["form", { body: "a=1", type: urlencoded }, { body: "a=2", type: urlencoded }],
    ["form", { body: form({ a: "1" }) }, { body: form({ a: "2" }) }],
  ])("%s is compared exactly", async (target, first, second) => {
    const app = api(target);
    expect((await app.fetch(toRequest(first))).status).toBe(200);
    expect((await app.fetch(toRequest(first))).headers.get("idempotent-replayed")).toBe("true");
    const other = await app.fetch(toRequest(second));
    expect(await other.json()).toMatchObject({ code: "key_reused", differs: ["body.a"] });
  });
});
