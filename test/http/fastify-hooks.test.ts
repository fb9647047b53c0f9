/** The plugin among others: contexts, hooks, validation, compression, shutdown. */
import compress from "@fastify/compress";
import multipart from "@fastify/multipart";
import Fastify from "fastify";
import type { FastifyInstance } from "fastify";

import { oncekey } from "../../src/fastify.js";
import type { Store } from "../../src/core/ports.js";
import { memoryStore } from "../../src/stores/memory.js";
import { waitFor } from "../support/wait-for.js";
import { byInject, bySocket, callers } from "./fastify-calls.js";

const apps: FastifyInstance[] = [];
afterEach(async () => {
  await Promise.all(apps.splice(0).map((app) => app.close()));
});

function newApp(): FastifyInstance {
  const app = Fastify();
  apps.push(app);
  return app;
}
const options = () => ({ store: memoryStore(), scope: "global", workers: false }) as const;
const key = "a-key-of-these-hooks";
const body = { amount: 1 };

describe.each(callers)("over %s", (_name, call) => {
  test("protects its own context and those below, and no other", async () => {
    const app = newApp();
    let runs = 0;
    const route = (context: FastifyInstance, url: string) =>
      context.post(url, { config: { idempotency: true } }, async () => ({ run: (runs += 1) }));
    await app.register(async (inner) => {
      await inner.register(oncekey, options());
      route(inner, "/inside");
      inner.post("/not-asked", async () => ({ run: (runs += 1) }));
      await inner.register(async (below) => void route(below, "/below"), { prefix: "/deep" });
    });
    route(app, "/outside");
    const twice = async (url: string) => {
      await call(app, { url, key, body });
      return (await call(app, { url, key, body })).headers["idempotent-replayed"];
    };
    expect(await twice("/inside")).toBe("true");
    await app.inject({ url: "/nowhere" });
    expect(await twice("/outside")).toBeUndefined();
    expect(await twice("/not-asked")).toBeUndefined();
    expect(runs).toBe(5);
    const below = { url: "/deep/below", key: "another-key-below", body };
    await call(app, below);
    expect((await call(app, below)).headers["idempotent-replayed"]).toBe("true");
    expect(app.hasDecorator("idempotent")).toBe(false);
  });

  test("does not run what a hook has answered while its key was being claimed", async () => {
    const memory = memoryStore();
    let mayClaim: () => void = () => undefined;
    const gate = new Promise<void>((open) => (mayClaim = open));
    const store: Store = {
      ...memory,
      claim: async (asked) => {
        await gate;
        return memory.claim(asked);
      },
    };
    const app = newApp();
    await app.register(oncekey, { ...options(), store });
    let isInTime = false;
    app.addHook("preHandler", (_request, reply, done) => {
      done();
      if (!isInTime) setImmediate(() => void reply.code(503).send("too slow"));
    });
    let runs = 0;
    app.post("/orders", { config: { idempotency: true } }, async () => ({ run: (runs += 1) }));
    const late = await call(app, { key, body });
    expect([late.status, late.bytes.toString()]).toEqual([503, "too slow"]);
    mayClaim();
    isInTime = true;
    await waitFor(async () => (await memory.find({ scope: "global", key })) === undefined);
    const answered = await call(app, { key, body });
    expect([answered.status, answered.json()]).toEqual([200, { run: 1 }]);
  });

  test("lets a context below have an instance of its own", async () => {
    const app = newApp();
    await app.register(oncekey, { ...options(), dialect: "stripe", methods: ["POST", "PUT"] });
    app.post("/a", { config: { idempotency: { required: true } } }, async () => "a");
    await app.register(async (below) => {
      await below.register(oncekey, options());
      below.post("/b", { config: { idempotency: { required: true } } }, async () => "b");
      below.put("/b", { config: { idempotency: true } }, async () => "b");
    });
    expect((await call(app, { url: "/a", body })).json()).toHaveProperty("error.type");
    expect((await call(app, { url: "/b", body })).json()).toMatchObject({ code: "key_missing" });
    for (const url of ["/a", "/b"]) {
      expect((await call(app, { url, key, body })).headers["idempotent-replayed"]).toBeUndefined();
      expect((await call(app, { url, key, body })).headers["idempotent-replayed"]).toBe("true");
    }
    const put = { method: "PUT", url: "/b", key: "a-key-for-the-outer", body };
    await call(app, put);
    expect((await call(app, put)).headers["idempotent-replayed"]).toBeUndefined();
    expect((await call(app, { url: "/a", key, body })).headers["stripe-should-retry"]).toBe(
      "false",
    );
    expect(
      (await call(app, { url: "/b", key, body })).headers["stripe-should-retry"],
    ).toBeUndefined();
  });

  test("leaves no key for what validation and hooks in front turn away", async () => {
    const app = newApp();
    await app.register(oncekey, options());
    let isOpen = false;
    app.post(
      "/orders",
      {
        schema: { body: { type: "object", required: ["amount"] } },
        config: { idempotency: true },
        preHandler: async (_request, reply) => (isOpen ? undefined : reply.code(401).send("no")),
      },
      async () => "done",
    );
    expect((await call(app, { key, body: {} })).status).toBe(400);
    expect((await call(app, { key, body })).status).toBe(401);
    isOpen = true;
    const first = await call(app, { key, body });
    expect([first.status, first.headers["idempotent-replayed"]]).toEqual([200, undefined]);
  });

  test("sends the headers of the replaying request's hooks with the stored bytes and headers", async () => {
    const app = newApp();
    let requests = 0;
    const seen: unknown[] = [];
    app.addHook("onRequest", async (_request, reply) => {
      requests += 1;
      reply.header("x-request", requests);
    });
    await app.register(oncekey, options());
    app.addHook("onSend", async (_request, reply, payload) => {
      await new Promise((resolve) => setImmediate(resolve));
      seen.push(typeof payload);
      if (requests > 1) reply.header("x-late", requests).header("set-cookie", `s=${requests}`);
      reply.header("x-both", requests).code(requests === 1 ? 201 : 299);
      return `${String(payload)} sent ${requests}`;
    });
    const responses: number[] = [];
    app.addHook("onResponse", async (_request, reply) => void responses.push(reply.statusCode));
    app.post("/orders", { config: { idempotency: true } }, async (_request, reply) =>
      reply.header("x-handler", requests).send({ requests }),
    );
    const first = await call(app, { key, body });
    const second = await call(app, { key, body });
    const third = await call(app, { key, body: { amount: 2 } });
    expect([first.status, first.bytes.toString()]).toEqual([201, '{"requests":1} sent 1']);
    expect([second.status, second.bytes.toString()]).toEqual([201, '{"requests":1} sent 1']);
    expect(first.headers).toMatchObject({ "x-request": "1", "x-handler": "1", "x-both": "1" });
    expect(second.headers).toMatchObject({ "x-request": "2", "x-handler": "1", "x-both": "1" });
    expect(second.headers).toMatchObject({ "x-late": "2" });
    expect(String(second.headers["set-cookie"])).toBe("s=2");
    expect(third.json()).toMatchObject({ code: "key_reused" });
    expect(third.headers).toMatchObject({ "x-request": "3", "x-late": "3" });
    expect(seen).toEqual(["string", "string", "string"]);
    expect(responses).toEqual([201, 201, 422]);
  });

  test("stores what @fastify/compress has made, and does not compress it again", async () => {
    const app = newApp();
    await app.register(compress, { threshold: 0 });
    await app.register(oncekey, options());
    app.post("/orders", { config: { idempotency: true } }, async () => ({
      text: "x".repeat(5_000),
    }));
    const headers = { "accept-encoding": "gzip" };
    const first = await call(app, { key, body, headers });
    const second = await call(app, { key, body, headers });
    expect(first.headers["content-encoding"]).toBe("gzip");
    expect(second.headers).toMatchObject({
      "content-encoding": "gzip",
      "idempotent-replayed": "true",
    });
    expect(second.bytes.equals(first.bytes)).toBe(true);
    const plain = await call(app, { key: "a-key-sent-plainly", body });
    const asked = await call(app, { key: "a-key-sent-plainly", body, headers });
    expect(asked.headers["content-encoding"]).toBeUndefined();
    expect(asked.bytes.equals(plain.bytes)).toBe(true);
  });
});

test("is loud about a route that was declared before it was loaded", async () => {
  const app = newApp();
  app.post("/orders", { config: { idempotency: true } }, async () => "unprotected");
  await app.register(oncekey, options());
  const answer = await bySocket(app, { key, body });
  expect(answer.json()).toMatchObject({ statusCode: 500, code: "options_invalid" });
  expect(answer.bytes.toString()).toContain("await app.register");
});

test("refuses http2 servers and unknown options at once", async () => {
  const http2 = Fastify({ http2: true });
  await expect(async () => http2.register(oncekey, options())).rejects.toMatchObject({
    code: "options_invalid",
  });
  const wrong = { ...options(), leaseMS: 5 };
  await expect(async () => newApp().register(oncekey, wrong)).rejects.toMatchObject({
    code: "options_invalid",
  });
});

test("refuses a form whose files are streams", async () => {
  const app = newApp();
  await app.register(multipart, { attachFieldsToBody: true });
  await app.register(oncekey, options());
  app.post("/orders", { config: { idempotency: true } }, async () => "taken");
  const form = (part: string) =>
    `--b\r\nContent-Disposition: form-data; name="f"${part}\r\n\r\nv\r\n--b--\r\n`;
  const headers = { "content-type": "multipart/form-data; boundary=b" };
  const file = form('; filename="a.txt"\r\nContent-Type: text/plain');
  const answer = await bySocket(app, { key, headers, body: file });
  expect(answer.bytes.toString()).toContain("body_not_parsed");
});

test("drains what runs when the app closes, before what was registered earlier is closed", async () => {
  const app = newApp();
  const store = memoryStore();
  const order: string[] = [];
  app.addHook("onClose", async () => void order.push("pool ended"));
  await app.register(oncekey, { ...options(), store });
  let begin: () => void = () => undefined;
  const begun = new Promise<void>((resolve) => (begin = resolve));
  let release: () => void = () => undefined;
  const gate = new Promise<void>((resolve) => (release = resolve));
  app.addHook("onClose", async () => release());
  app.post("/orders", { config: { idempotency: true } }, async () => {
    begin();
    await gate;
    for (let turn = 0; turn < 50; turn += 1) await new Promise((resolve) => setImmediate(resolve));
    order.push("handler done");
    return "done";
  });
  const answer = byInject(app, { key, body });
  await begun;
  await app.close();
  expect(order).toEqual(["handler done", "pool ended"]);
  expect(await store.find({ scope: "global", key })).toMatchObject({
    record: { state: "completed" },
  });
  expect((await answer).bytes.toString()).toBe("done");
});

test("protects nothing while the kill switch is on, and says so", async () => {
  const app = newApp();
  await app.register(oncekey, { ...options(), dangerouslyRunWithoutStore: true });
  let runs = 0;
  app.post("/orders", { config: { idempotency: true } }, async (request) => {
    runs += 1;
    return { runs, downstream: request.idempotency?.downstreamKey("a") };
  });
  const first = await byInject(app, { key, body });
  const second = await byInject(app, { key, body });
  expect([first.json()["runs"], second.json()["runs"]]).toEqual([1, 2]);
  expect(second.json()["downstream"]).toBe(first.json()["downstream"]);
  expect(second.headers).toMatchObject({ "idempotency-stored": "false", "idempotency-key": key });
});
