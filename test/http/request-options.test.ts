/** Routes that say themselves what the key is and what counts, and bodies that are compared by their stated digest. */
import { createHash } from "node:crypto";
import { pipeline } from "node:stream/promises";
import { Writable } from "node:stream";
import { gzipSync } from "node:zlib";

import express5 from "express";
import type { Request, RequestHandler } from "express";
import multer from "multer";

import { createIdempotency, keepRawBody, verifyContentDigest } from "../../src/index.js";
import type { Idempotency, IdempotencyEvent, RouteOptions } from "../../src/index.js";
import { memoryStore } from "../../src/stores/memory.js";
import { form, json, sent, serve, urlencoded, versions } from "./bodies.js";
import type { Running, Sent } from "./bodies.js";

let counter = 0;
const newKey = (): string => `option-${(counter += 1)}`;

let idempotent: Idempotency;
let events: IdempotencyEvent[] = [];
const apps: Running[] = [];

beforeAll(() => {
  idempotent = createIdempotency({
    store: memoryStore(),
    scope: "global",
    hooks: { onEvent: (event) => void events.push(event) },
  });
});
beforeEach(() => {
  events = [];
});
afterEach(async () => {
  for (const app of apps.splice(0)) await app.close();
});
afterAll(() => idempotent.close());

async function route(
  options: RouteOptions<Request>,
  parser: RequestHandler = express5.json({ verify: keepRawBody }),
  last?: RequestHandler,
  express = express5,
): Promise<Running> {
  const app = await serve(express, [parser, idempotent(options)], last);
  apps.push(app);
  return app;
}

const ran = { status: 201, replayed: false };
const replayed = { status: 201, replayed: true };
const reused = (...differs: string[]) => ({ status: 422, body: { code: "key_reused", differs } });

describe("key", () => {
  test("comes from the body, is not echoed, and the header is not looked at", async () => {
    const app = await route({ key: (req) => req.body.id });
    const id = newKey();
    const first = await app.post("of the header", json({ id }));
    expect(first).toMatchObject(ran);
    expect(first.headers).not.toHaveProperty("idempotency-key");
    expect(await app.post(undefined, json({ id }))).toMatchObject(replayed);
    expect(await app.post("not, valid\t", json({ id }))).toMatchObject(replayed);
    expect(await app.post("of the header", json({ id: newKey() }))).toMatchObject(ran);
    expect(await idempotent.find({ scope: "global", key: id })).toBeDefined();
    expect(app.runs()).toBe(2);
  });

  test("may come later", async () => {
    const app = await route({ key: async (req) => req.get("X-GitHub-Delivery") });
    const headers = { "X-GitHub-Delivery": newKey() };
    expect(await app.post(undefined, json({}, headers))).toMatchObject(ran);
    expect(await app.post(undefined, json({}, headers))).toMatchObject(replayed);
  });

  test.each([
    [{ id: 5 }],
    [{ id: null }],
    [{ id: { $ne: 1 } }],
    [{ id: "" }],
    [{ id: "é" }],
    [{ id: "x".repeat(256) }],
  ])("%j has none that is valid", async (body) => {
    const app = await route({ key: (req) => req.body.id });
    expect(await app.post("valid", json(body))).toMatchObject({
      status: 400,
      body: { code: "key_invalid" },
    });
    expect(app.runs()).toBe(0);
  });

  test("is missing where there is none", async () => {
    const key = (req: Request): string | undefined => req.body.id;
    expect(await (await route({ key })).post("x", json({}))).toMatchObject(ran);
    expect(await (await route({ key, required: true })).post("x", json({}))).toMatchObject({
      status: 400,
      body: { code: "key_missing" },
    });
  });

  test("is not judged for weakness: whoever wrote the route has chosen it", async () => {
    const app = await route({ key: (req) => req.body.id, weakKeys: "reject" });
    expect(await app.post(undefined, json({ id: "1732406400" }))).toMatchObject(ran);
    expect(events).not.toContainEqual(expect.objectContaining({ type: "weak_key" }));
  });

  test.each(versions)(
    "is not taken for missing where the body was not parsed on %s",
    async (_name, express) => {
      const nothing: RequestHandler = (_req, _res, next) => next();
      for (const key of [(req: Request) => req.body?.id, (req: Request) => req.body.id.text]) {
        const app = await route({ key }, nothing, undefined, express);
        expect(await app.post(undefined, json({ id: "a" }))).toMatchObject({
          status: 500,
          body: { code: "body_not_parsed" },
        });
        expect(app.runs()).toBe(0);
      }
    },
  );

  test("a fault of the function reaches the app's error handler", async () => {
    const app = await route({
      key: () => {
        throw new Error("no such header");
      },
    });
    expect(await app.post("x", json({}))).toMatchObject({
      status: 500,
      body: { detail: "no such header" },
    });
  });
});

describe("fingerprint", () => {
  test("stands in the place of the body and its type; the path and the query count", async () => {
    const app = await route(
      { fingerprint: (req) => ({ amount: req.body.amount, to: req.body.to }) },
      (req, res, next) =>
        express5.json()(req, res, () => express5.urlencoded({ extended: false })(req, res, next)),
    );
    const key = newKey();
    const one = { amount: "5", to: "a", at: 1 };
    expect(await app.post(key, json(one))).toMatchObject(ran);
    expect(await app.post(key, json({ ...one, at: 2 }))).toMatchObject(replayed);
    expect(await app.post(key, urlencoded("to=a&amount=5"))).toMatchObject(replayed);
    expect(await app.post(key, json({ ...one, amount: 6 }))).toMatchObject(reused("body.amount"));
    expect(await app.post(key, json(one), "/other?x=1")).toMatchObject(reused("path", "query.x"));
  });

  test("may be a text or bytes, come later, and needs no parsed body", async () => {
    const values: unknown[] = ["a", "a", Buffer.from("a"), "b"];
    const nothing: RequestHandler = (_req, _res, next) => next();
    const app = await route({ fingerprint: async () => values.shift() }, nothing);
    const key = newKey();
    const request = sent("image/png", "1");
    expect(await app.post(key, request)).toMatchObject(ran);
    expect(await app.post(key, request)).toMatchObject(replayed);
    expect(await app.post(key, request)).toMatchObject(replayed);
    expect(await app.post(key, request)).toMatchObject(reused("body"));
  });

  test.each<[string, () => unknown]>([
    ["undefined", () => undefined],
    ["a function", () => () => 1],
    ["a map", () => new Map([["a", 1]])],
    ["a set in an object", () => ({ a: new Set([1]) })],
    ["a hole in a list", () => [undefined]],
    ["not a number", () => Number.NaN],
    ["a big integer", () => 5n],
  ])("is refused where it is %s", async (_what, fingerprint) => {
    const app = await route({ fingerprint });
    expect(await app.post(newKey(), json({}))).toMatchObject({
      status: 500,
      body: { code: "fingerprint_invalid" },
    });
    expect(app.runs()).toBe(0);
  });
});

describe("ignoreFields", () => {
  const ignoreFields = [
    "body.sentAt",
    "body.items[*].note",
    "body.pair[0]",
    "body.meta.try",
    "query.trace",
  ];
  const base = {
    sentAt: 1,
    items: [{ sku: "a", note: "x" }],
    pair: [1, 2],
    meta: { try: 1, of: 3 },
  };

  test.each<[string, object, string]>([
    ["a field", { ...base, sentAt: { any: "thing" } }, "/"],
    ["a field that is missing", { ...base, sentAt: undefined }, "/"],
    ["a field of each item", { ...base, items: [{ sku: "a" }] }, "/"],
    ["an item", { ...base, pair: ["x", 2] }, "/"],
    ["a nested field", { ...base, meta: { try: 2, of: 3 } }, "/"],
    ["a name with a dot that reads the same", { ...base, "meta.try": 4 }, "/"],
    ["a parameter", base, "/?trace=1&trace=2"],
  ])("%s does not count", async (_what, body, path) => {
    const app = await route({ ignoreFields });
    const key = newKey();
    expect(await app.post(key, json(base))).toMatchObject(ran);
    expect(await app.post(key, json(body), path)).toMatchObject(replayed);
  });

  test.each<[object, string, string[]]>([
    [{ ...base, items: [{ sku: "b", note: "x" }] }, "/", ["body.items[0].sku"]],
    [{ ...base, pair: [1, 3] }, "/", ["body.pair[1]"]],
    [{ ...base, pair: [1, 2, 3] }, "/", ["body.pair[2]"]],
    [{ ...base, sentAtAll: 1 }, "/", ["body.sentAtAll"]],
    [{ ...base, meta: { try: 1, of: 4 } }, "/", ["body.meta.of"]],
    [base, "/?trac=1", ["query.trac"]],
  ])("all others count: %j %s", async (body, path, differs) => {
    const app = await route({ ignoreFields });
    const key = newKey();
    expect(await app.post(key, json(base))).toMatchObject(ran);
    expect(await app.post(key, json(body), path)).toMatchObject(reused(...differs));
  });

  test("a number beyond 2^53 beside them still counts to its last digit", async () => {
    const app = await route({ ignoreFields });
    const key = newKey();
    const of = (n: string, at: string): Sent =>
      sent("application/json", `{"n":${n},"sentAt":${at}}`);
    expect(await app.post(key, of("9007199254740993", "1"))).toMatchObject(ran);
    expect(await app.post(key, of("9007199254740993", "9007199254740995"))).toMatchObject(replayed);
    expect(await app.post(key, of("9007199254740992", "1"))).toMatchObject(reused("body.n"));
  });

  test("a file and a field beside it", async () => {
    const file = { filename: "a.png", type: "image/png" };
    const parts = (thumb: string, scan: string, at: string) =>
      form([
        { name: "thumb", value: thumb, ...file },
        { name: "scan", value: scan, ...file },
        { name: "at", value: at },
      ]);
    const app = await route({ ignoreFields: ["body.file.thumb", "body.at"] }, multer().any());
    const key = newKey();
    expect(await app.post(key, parts("1", "1", "1"))).toMatchObject(ran);
    expect(await app.post(key, parts("2", "1", "2"))).toMatchObject(replayed);
    expect(await app.post(key, parts("1", "2", "1"))).toMatchObject(reused("body.file.scan"));
  });

  test.each([
    "",
    "body",
    "query",
    "path",
    "method",
    "content_type",
    "body.",
    "body..a",
    "sentAt",
    "body[x]",
    "query.",
  ])("%j is refused when the app is built", (name) => {
    expect(() => idempotent({ ignoreFields: [name] })).toThrow(
      /ignoreFields\.0: must name a field/,
    );
  });
});

const digestOf = (body: Uint8Array | string, algorithm = "sha-256"): string =>
  `${algorithm}=:${createHash(algorithm.replace("-", "")).update(body).digest("base64")}:`;
const stream = (body: Uint8Array | string, digest: string | string[]): Sent =>
  sent("application/octet-stream", body, { "Content-Digest": digest });

describe("Content-Digest of a body that the handler streams", () => {
  const nothing: RequestHandler = (_req, _res, next) => next();

  async function uploads(): Promise<Running & { readonly bytes: () => number }> {
    let bytes = 0;
    const app = await route({ required: true }, nothing, async (req, res) => {
      const sink = new Writable({
        write: (chunk: Uint8Array, _encoding, done) => {
          bytes += chunk.length;
          done();
        },
      });
      await pipeline(req, verifyContentDigest(req), sink);
      res.status(201).json({});
    });
    return { ...app, bytes: () => bytes };
  }

  test("is the body's fingerprint, and a retry's body is not read", async () => {
    const app = await uploads();
    const key = newKey();
    const body = Buffer.alloc(20 * 1024 * 1024, "x");
    expect(await app.post(key, stream(body, digestOf(body)))).toMatchObject(ran);
    expect(await app.post(key, stream(body, digestOf(body)))).toMatchObject(replayed);
    // Written otherwise, on two lines, beside digests that nobody here knows.
    const lines = ["md5=:AAAA:, sha-512=:AAAA:", `${digestOf(body)};x=1`];
    expect(await app.post(key, stream(body, lines))).toMatchObject(replayed);
    expect(await app.post(key, stream("y", digestOf("y")))).toMatchObject(reused("body"));
    expect(app.bytes()).toBe(body.length);
  });

  test("may be of SHA-512", async () => {
    const app = await uploads();
    const key = newKey();
    expect(await app.post(key, stream("x", digestOf("x", "sha-512")))).toMatchObject(ran);
    expect(await app.post(key, stream("x", digestOf("x", "sha-512")))).toMatchObject(replayed);
    expect(await app.post(key, stream("x", digestOf("x")))).toMatchObject(reused("body"));
  });

  test("is that of the bytes as they were sent", async () => {
    const app = await uploads();
    const body = gzipSync("x");
    const request = sent("text/plain", body, {
      "Content-Digest": digestOf(body),
      "Content-Encoding": "gzip",
    });
    expect(await app.post(newKey(), request)).toMatchObject(ran);
  });

  test("is held against the bytes by the handler", async () => {
    const app = await uploads();
    expect(await app.post(newKey(), stream("x", digestOf("y")))).toMatchObject({
      status: 400,
      body: { code: "digest_invalid" },
    });
    const two = `${digestOf("x")}, ${digestOf("y", "sha-512")}`;
    expect(await app.post(newKey(), stream("x", two))).toMatchObject({ status: 400 });
  });

  test.each(["md5=:AAAA:", "sha-256=:AAAA:", "sha-256=x", "sha-256", "sha-256=:", ""])(
    "%j is none to compare by",
    async (digest) => {
      const app = await uploads();
      expect(await app.post(newKey(), stream("x", digest))).toMatchObject({
        status: 400,
        body: { code: "digest_invalid" },
      });
      expect(app.runs()).toBe(0);
    },
  );
});

describe("Content-Digest of a body that was parsed", () => {
  const with_ = (digest: string): Sent["headers"] => ({ "Content-Digest": digest });
  const wrong = { status: 400, body: { code: "digest_invalid" } };

  test.each<[string, RequestHandler, Sent, Sent]>([
    [
      "JSON whose bytes are kept",
      express5.json({ verify: keepRawBody }),
      json({ a: 1 }, with_(digestOf('{"a":1}'))),
      json({ a: 1 }, with_(digestOf("{}"))),
    ],
    [
      "bytes",
      express5.raw({ type: "*/*" }),
      stream("x", digestOf("x")),
      stream("x", digestOf("y")),
    ],
    [
      "a text whose bytes are kept",
      express5.text({ verify: keepRawBody }),
      sent("text/plain", "x", with_(digestOf("x"))),
      sent("text/plain", "x", with_(digestOf("y"))),
    ],
    [
      "nothing",
      express5.json(),
      sent("text/plain", "", with_(digestOf(""))),
      sent("text/plain", "", with_(digestOf("y"))),
    ],
  ])("is held against %s, and a wrong one takes no key", async (_what, parser, right, lie) => {
    const app = await route({}, parser);
    const key = newKey();
    expect(await app.post(key, lie)).toMatchObject(wrong);
    expect(app.runs()).toBe(0);
    expect(await app.post(key, right)).toMatchObject(ran);
    expect(await app.post(key, lie)).toMatchObject(wrong);
    expect(
      await app.post(key, {
        ...right,
        headers: { ...right.headers, "Content-Digest": "md5=:AAAA:" },
      }),
    ).toMatchObject(replayed);
  });

  test("is left alone where the bytes that were sent are gone", async () => {
    const app = await route({});
    const body = gzipSync('{"a":1}');
    const headers = { "Content-Encoding": "gzip", "Content-Digest": digestOf(body) };
    expect(await app.post(newKey(), sent("application/json", body, headers))).toMatchObject(ran);
  });
});
