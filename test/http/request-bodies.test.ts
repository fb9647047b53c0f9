/** Which bodies are the same request, whatever parsed them, and what is said of those that are not. */
import { rm } from "node:fs/promises";
import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { deflateSync, gzipSync } from "node:zlib";

import type { RequestHandler } from "express";
import multer from "multer";

import { createIdempotency } from "../../src/index.js";
import type { Idempotency } from "../../src/index.js";
import { memoryStore } from "../../src/stores/memory.js";
import { form, json, sent, serve, urlencoded, versions } from "./bodies.js";
import type { Part, Running, Sent } from "./bodies.js";

const folder = mkdtempSync(join(tmpdir(), "oncekey-uploads-"));
afterAll(() => rm(folder, { recursive: true }));

let counter = 0;
const newKey = (): string => `body-${(counter += 1)}`;

const avatar: Part = { name: "avatar", value: "\x89PNG", filename: "a.png", type: "image/png" };
const photo = (value: string, filename = "p.png"): Part => ({
  ...avatar,
  name: "photos",
  value,
  filename,
});
const title: Part = { name: "title", value: "Me" };
const order = { amount: 5, items: [{ sku: "a", count: 1 }] };
const gzip = { "Content-Encoding": "gzip" };
const deflate = { "Content-Encoding": "deflate" };
const text = (body: string, charset: BufferEncoding, name: string): Sent =>
  sent(`text/plain; charset=${name}`, Buffer.from(body, charset));

describe.each(versions)("%s", (_name, express) => {
  let idempotent: Idempotency;
  const running = new Map<string, Running>();

  const memory = multer({ storage: multer.memoryStorage() });
  const disk = multer({ dest: folder });
  const photos = [{ name: "photos" }, { name: "avatar" }];
  const parsers: Record<string, RequestHandler> = {
    json: express.json({ limit: "1mb" }),
    urlencoded: express.urlencoded({ extended: true }),
    simple: express.urlencoded({ extended: false }),
    text: express.text(),
    raw: express.raw({ type: () => true, limit: "60mb" }),
    single: memory.single("avatar"),
    disk: disk.single("avatar"),
    any: memory.any(),
    fields: disk.fields(photos),
    none: memory.none(),
    unparsed: (req, _res, next) => {
      const chunks: Uint8Array[] = [];
      req.on("data", (chunk: Uint8Array) => chunks.push(chunk));
      req.on("end", () => {
        req.body = Buffer.concat(chunks);
        next();
      });
    },
  };

  beforeAll(async () => {
    idempotent = createIdempotency({ store: memoryStore(), scope: "global" });
    for (const [name, parser] of Object.entries(parsers))
      running.set(name, await serve(express, [parser, idempotent()]));
  });

  afterAll(async () => {
    for (const app of running.values()) await app.close();
    await idempotent.close();
  });

  const appOf = (parser: string): Running => running.get(parser) as Running;

  test.each<[string, string, Sent, Sent]>([
    [
      "JSON in another order",
      "json",
      json({ a: 1, b: 2 }),
      sent("application/json", '{"b":2, "a":1.0}\n'),
    ],
    [
      "JSON compressed",
      "json",
      json(order),
      sent("application/json", gzipSync(JSON.stringify(order)), gzip),
    ],
    [
      "JSON compressed in two ways",
      "json",
      sent("application/json", gzipSync(JSON.stringify(order)), gzip),
      sent("application/json", deflateSync(JSON.stringify(order)), deflate),
    ],
    [
      "JSON in another charset",
      "json",
      json({ name: "é" }),
      sent("application/json; charset=utf-16le", Buffer.from('{"name":"é"}', "utf16le")),
    ],
    [
      "a form in another order",
      "urlencoded",
      urlencoded("a[b]=1&c[]=x&c[]=y&d=+"),
      urlencoded("d=%20&c%5B%5D=x&c[]=y&a%5Bb%5D=1"),
    ],
    ["a simple form", "simple", urlencoded("a=1&b=2&b=3"), urlencoded("b=2&a=1&b=3")],
    [
      "a text in another charset",
      "text",
      text("é", "utf8", "utf-8"),
      text("é", "latin1", "iso-8859-1"),
    ],
    ["bytes", "raw", sent("image/png", "\0\x01"), sent("image/png", "\0\x01")],
    [
      "bytes compressed",
      "raw",
      sent("image/png", "12345678"),
      sent("image/png", gzipSync("12345678"), gzip),
    ],
    [
      "bytes that stay compressed",
      "unparsed",
      sent("image/png", gzipSync("1"), gzip),
      sent("image/png", gzipSync("1"), gzip),
    ],
    ["an upload under another boundary", "single", form([title, avatar]), form([avatar, title])],
    ["an upload on disk", "disk", form([title, avatar]), form([title, avatar])],
    [
      "uploads",
      "any",
      form([photo("1"), title, photo("2")]),
      form([title, photo("1"), photo("2")]),
    ],
    ["uploads by field", "fields", form([avatar, photo("1")]), form([photo("1"), avatar])],
    [
      "a form of parts",
      "none",
      form([title, { name: "a[b]", value: "1" }]),
      form([{ name: "a[b]", value: "1" }, title]),
    ],
    ["a form without parts", "none", form([]), form([])],
    ["nothing", "json", sent("application/json", ""), sent("text/plain", "")],
  ])("%s is the same request", async (_what, parser, one, other) => {
    const key = newKey();
    const app = appOf(parser);
    const first = await app.post(key, one);
    expect({ ...first, headers: {} }).toMatchObject({ status: 201, replayed: false });
    expect(await app.post(key, other)).toMatchObject({
      status: 201,
      replayed: true,
      body: first.body,
    });
  });

  test.each<[string, string, Sent, Sent, string[]]>([
    ["JSON", "json", json(order), json({ ...order, amount: 6 }), ["body.amount"]],
    [
      "JSON compressed",
      "json",
      json(order),
      sent("application/json", gzipSync('{"amount":5}'), gzip),
      ["body.items[0].count", "body.items[0].sku"],
    ],
    [
      "a nested form",
      "urlencoded",
      urlencoded("a[b]=1&c[]=x&c[]=y"),
      urlencoded("a[b]=2&c[]=x&c[]=z"),
      ["body.a.b", "body.c[1]"],
    ],
    ["a form that becomes JSON", "json", json({}), sent("application/json", "[]"), ["body"]],
    ["a text", "text", text("a", "utf8", "utf-8"), text("b", "utf8", "utf-8"), ["body"]],
    [
      "bytes in a charset",
      "raw",
      text("é", "utf8", "utf-8"),
      text("é", "latin1", "latin1"),
      ["body"],
    ],
    ["a media type", "raw", sent("image/png", "1"), sent("image/gif", "1"), ["content_type"]],
    [
      "bytes that stay compressed",
      "unparsed",
      sent("image/png", gzipSync("1"), gzip),
      sent("image/png", gzipSync("1")),
      ["content_encoding"],
    ],
    [
      "a body and none",
      "raw",
      sent("text/plain", "1"),
      sent("text/plain", ""),
      ["body", "content_type"],
    ],
    [
      "a file's content",
      "single",
      form([title, avatar]),
      form([title, { ...avatar, value: "\x89PNF" }]),
      ["body.file.avatar"],
    ],
    [
      "a file's content on disk",
      "disk",
      form([title, avatar]),
      form([title, { ...avatar, value: "" }]),
      ["body.file.avatar"],
    ],
    [
      "a file's name",
      "disk",
      form([avatar]),
      form([{ ...avatar, filename: "b.png" }]),
      ["body.file.avatar"],
    ],
    [
      "a file's type",
      "single",
      form([avatar]),
      form([{ ...avatar, type: "image/gif" }]),
      ["body.file.avatar"],
    ],
    [
      "a field beside a file",
      "single",
      form([title, avatar]),
      form([{ ...title, value: "You" }, avatar]),
      ["body.title"],
    ],
    [
      "a file that is missing",
      "single",
      form([title, avatar]),
      form([title]),
      ["body.file.avatar"],
    ],
    [
      "one of two files",
      "any",
      form([photo("1"), photo("2")]),
      form([photo("1"), photo("3")]),
      ["body.file.photos[1]"],
    ],
    [
      "the order of two files",
      "any",
      form([photo("1"), photo("2")]),
      form([photo("2"), photo("1")]),
      ["body.file.photos[0]", "body.file.photos[1]"],
    ],
    [
      "a file's field",
      "fields",
      form([avatar]),
      form([{ ...avatar, name: "photos" }]),
      ["body.file.avatar", "body.file.photos"],
    ],
    [
      "a field that looks like a file",
      "any",
      form([avatar]),
      form([{ name: "file[avatar][filename]", value: "a.png" }]),
      ["body.file.avatar", "body.file.avatar.filename"],
    ],
  ])("%s that differs is another request", async (_what, parser, one, other, differs) => {
    const key = newKey();
    const app = appOf(parser);
    expect(await app.post(key, one)).toMatchObject({ status: 201, replayed: false });
    const before = app.runs();
    expect(await app.post(key, other)).toMatchObject({
      status: 422,
      body: { code: "key_reused", differs },
    });
    expect(app.runs()).toBe(before);
  });

  test.each<[string, Sent]>([
    ["json", json(order)],
    ["urlencoded", urlencoded("a=1")],
    ["text", text("a", "utf8", "utf-8")],
    ["raw", sent("image/png", "1")],
    ["single", form([title, avatar])],
    ["none", form([title])],
  ])("says so where %s stands behind the middleware, and takes no key", async (parser, request) => {
    const key = newKey();
    const wrong = await serve(express, [idempotent(), parsers[parser] as RequestHandler]);
    const told = await wrong.post(key, request);
    await wrong.close();
    expect(told).toMatchObject({ status: 500, body: { code: "body_not_parsed" } });
    expect(told.body.detail).toMatch(/in front of the middleware.*Content-Digest/);
    expect(wrong.runs()).toBe(0);
    expect(await appOf(parser).post(key, request)).toMatchObject({ status: 201, replayed: false });
  });

  test("says so where another parser does not know the type", async () => {
    const told = await appOf("json").post(newKey(), form([title, avatar]));
    expect(told).toMatchObject({ status: 500, body: { code: "body_not_parsed" } });
  });

  test("says so where the files are somewhere else, or were streamed away", async () => {
    const remote: multer.StorageEngine = {
      _handleFile: (_req, file, done) => {
        file.stream.resume().on("end", () => done(null, { size: 1 }));
      },
      _removeFile: (_req, _file, done) => done(null),
    };
    const away: RequestHandler = (req, _res, next) => {
      req.resume().on("end", () => next());
    };
    for (const parser of [multer({ storage: remote }).any(), away]) {
      const app = await serve(express, [express.json(), parser, idempotent()]);
      const told = await app.post(newKey(), form([avatar]));
      expect(told).toMatchObject({ status: 500, body: { code: "body_not_parsed" } });
      expect(app.runs()).toBe(0);
      await app.close();
    }
  });

  test("a body that is too large for its parser leaves no key", async () => {
    const key = newKey();
    const large = await serve(express, [express.json({ limit: 10 }), idempotent()]);
    expect(await large.post(key, json(order))).toMatchObject({ status: 413 });
    expect(await large.post(key, json({ a: 1 }))).toMatchObject({ status: 201, replayed: false });
    await large.close();
  });

  test("bytes of 50 MB", async () => {
    const key = newKey();
    const bytes = Buffer.alloc(50 * 1024 * 1024, "x");
    const app = appOf("raw");
    const request = sent("application/octet-stream", bytes);
    expect(await app.post(key, request)).toMatchObject({ status: 201, replayed: false });
    expect(await app.post(key, request)).toMatchObject({ status: 201, replayed: true });
    bytes[bytes.length - 1] = 0;
    expect(await app.post(key, request)).toMatchObject({
      status: 422,
      body: { differs: ["body"] },
    });
  });
});
