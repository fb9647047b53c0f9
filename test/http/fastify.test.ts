/** Plain routes on Fastify: what a handler can answer with, over a real socket and by inject. */
import { connect } from "node:net";
import type { AddressInfo } from "node:net";
import { Readable } from "node:stream";

import Fastify from "fastify";
import type { FastifyInstance, FastifyReply, FastifyRequest } from "fastify";

import { oncekey } from "../../src/fastify.js";
import type { RouteOptions } from "../../src/fastify.js";
import { migrate, postgresStore } from "../../src/stores/postgres.js";
import { useDatabase } from "../support/databases.js";
import { waitFor } from "../support/wait-for.js";
import { bySocket, callers } from "./fastify-calls.js";

const database = useDatabase({ prepare: (pool) => migrate({ pool }) });

type Handler = (request: FastifyRequest, reply: FastifyReply, run: number) => unknown;

const apps: FastifyInstance[] = [];
let runs = 0;
beforeEach(() => {
  runs = 0;
});
afterEach(async () => {
  await Promise.all(apps.splice(0).map((app) => app.close()));
});

async function appOf(
  handler: Handler,
  route: true | RouteOptions<FastifyRequest> = true,
): Promise<FastifyInstance> {
  const app = Fastify();
  apps.push(app);
  await app.register(oncekey, {
    store: postgresStore({ pool: database.pool }),
    scope: (request) => String(request.headers["x-tenant"] ?? "acme"),
    workers: false,
  });
  app.route({
    method: ["POST", "GET"],
    url: "/orders",
    config: { idempotency: route },
    handler: (request, reply) => handler(request, reply, (runs += 1)),
  });
  return app;
}

let counter = 0;
const newKey = (): string => `fastify-key-${(counter += 1)}-here`;
const body = { amount: 1 };

const answers: readonly (readonly [string, Handler])[] = [
  ["a returned object", async (_request, _reply, run) => ({ run })],
  ["an object that is sent", async (_request, reply, run) => reply.code(201).send({ run })],
  [
    "an object that is sent later",
    (_request, reply, run) => void setImmediate(() => reply.send({ run })),
  ],
  [
    "the reply returned, and an object sent later",
    (_request, reply, run) => {
      setImmediate(() => reply.send({ run }));
      return reply;
    },
  ],
  ["a string", async (_request, reply, run) => reply.type("text/html").send(`<p>é ${run}</p>`)],
  ["bytes", async (_request, _reply, run) => Buffer.from([run, 0, 255, 128])],
  ["nothing", async () => undefined],
  ["204", async (_request, reply) => reply.code(204).send()],
  ["null", async () => null],
  ["a stream", async (_request, _reply, run) => Readable.from(["one ", `two ${run}`])],
  ["a web stream", async (_request, _reply, run) => new Blob([`blob ${run}`]).stream()],
  [
    "a web response",
    async (_request, _reply, run) =>
      new Response(`web ${run}`, { status: 202, headers: { "x-web": String(run) } }),
  ],
  ["a redirect", async (_request, reply, run) => reply.redirect(`/orders/${run}`)],
  [
    "several values of a header",
    async (_request, reply, run) => reply.header("link", ["<a>", "<b>"]).send({ run }),
  ],
  [
    "a thrown error",
    async (_request, _reply, run) => {
      throw Object.assign(new Error(`boom ${run}`), { statusCode: 418 });
    },
  ],
  ["an error that is sent", (_request, reply, run) => void reply.send(new Error(`sent ${run}`))],
  [
    "a hijacked reply",
    (_request, reply, run) => {
      reply.hijack();
      reply.raw.writeHead(207, { "X-Raw": "yes" });
      reply.raw.write("raw ");
      reply.raw.end(String(run));
    },
  ],
];

/** What must be equal between a first answer and a replay: all but the time and our own. */
const own = ["date", "idempotent-replayed", "connection", "keep-alive"];
function told({ status, headers, bytes }: Awaited<ReturnType<typeof bySocket>>) {
  const stored = Object.entries(headers).filter(
    // What is held is framed by its length, whatever it was written as.
    ([name]) => !own.includes(name) && name !== "transfer-encoding",
  );
  return { status, headers: Object.fromEntries(stored), text: bytes.toString("latin1") };
}

describe.each(callers)("over %s", (_name, call) => {
  test.each(answers)("replays %s", async (_what, handler) => {
    const app = await appOf(handler);
    const key = newKey();
    const first = await call(app, { key, body });
    const second = await call(app, { key, body });
    expect(told(second)).toEqual(told(first));
    expect(second.headers["idempotent-replayed"]).toBe("true");
    expect(first.headers["idempotent-replayed"]).toBeUndefined();
    expect(first.headers["idempotency-key"]).toBe(key);
    expect(Date.parse(String(first.headers["idempotency-expires"]))).toBeGreaterThan(0);
    expect(runs).toBe(1);
    expect(
      (await call(app, { key: newKey(), body })).headers["idempotent-replayed"],
    ).toBeUndefined();
    expect(runs).toBe(2);
  });

  test.each(answers)("changes nothing about %s without a key", async (_what, handler) => {
    const app = await appOf(handler);
    const plain = Fastify();
    apps.push(plain);
    plain.post("/orders", (request, reply) => handler(request, reply, 1));
    expect(told(await call(app, { body }))).toEqual(told(await call(plain, { body })));
    expect(runs).toBe(1);
  });

  test("answers 422 for another request with the names of its fields", async () => {
    const app = await appOf(async () => ({ ok: true }));
    const key = newKey();
    await call(app, { key, body: { amount: 5 } });
    const other = await call(app, { key, body: { amount: 6 } });
    expect(other.status).toBe(422);
    expect(other.headers["content-type"]).toBe("application/problem+json");
    expect(other.json()).toMatchObject({ code: "key_reused", differs: ["body.amount"] });
    expect(runs).toBe(1);
  });

  test("refuses a missing and a malformed key, and leaves other methods alone", async () => {
    const strict = await appOf(async () => ({ ok: true }), { required: true });
    expect((await call(strict, { body })).json()).toMatchObject({
      code: "key_missing",
      status: 400,
    });
    const app = await appOf(async () => ({ ok: true }));
    expect((await call(app, { key: "é", body })).json()).toMatchObject({ code: "key_invalid" });
    expect(runs).toBe(0);
    expect((await call(app, { method: "GET", key: newKey() })).status).toBe(200);
    expect(
      (await call(app, { method: "GET", key: newKey() })).headers["idempotency-key"],
    ).toBeUndefined();
  });

  test("keeps tenants apart, and tells the handler of its key", async () => {
    const app = await appOf(async ({ idempotency }) => ({
      key: idempotency?.key,
      scope: idempotency?.scope,
      attempt: idempotency?.attempt,
    }));
    const key = newKey();
    const of = async (tenant: string) =>
      (await call(app, { key, body, headers: { "x-tenant": tenant } })).json();
    expect(await of("acme")).toEqual({ key, scope: "acme", attempt: 1 });
    expect(await of("umbrella")).toEqual({ key, scope: "umbrella", attempt: 1 });
    expect(runs).toBe(2);
  });

  test("gives the key back where the handler says that nothing happened", async () => {
    const app = await appOf(
      async (request, reply, run) => {
        if (run === 1) {
          request.idempotency?.release();
          return reply.code(200).send({ run });
        }
        return reply.code(run === 2 ? 429 : 201).send({ run });
      },
      { releaseOn: [429] },
    );
    const key = newKey();
    const statuses: number[] = [];
    for (let tries = 0; tries < 4; tries += 1)
      statuses.push((await call(app, { key, body })).status);
    expect(statuses).toEqual([200, 429, 201, 201]);
    expect(runs).toBe(3);
  });

  test("lets a body that is too large pass, and says so to the next one", async () => {
    const app = await appOf(async () => Readable.from(["x".repeat(600), "y".repeat(600)]), {
      maxResponseBytes: 1_000,
    });
    const key = newKey();
    const first = await call(app, { key, body });
    expect([first.status, first.bytes.length]).toEqual([200, 1_200]);
    expect(first.headers["idempotency-stored"]).toBe("false");
    expect((await call(app, { key, body })).json()).toMatchObject({ code: "response_not_stored" });
    expect(runs).toBe(1);
  });

  test("runs once for 50 requests at once", async () => {
    let release: () => void = () => undefined;
    const gate = new Promise<void>((resolve) => (release = resolve));
    const app = await appOf(async () => {
      await gate;
      return { ok: true };
    });
    const key = newKey();
    const refusals: Record<string, unknown>[] = [];
    const all = Array.from({ length: 50 }, async () => {
      const answer = await call(app, { key, body });
      if (answer.status === 409) refusals.push(answer.json());
      return answer.status;
    });
    await waitFor(() => refusals.length === 49, { what: "49 refusals" });
    expect(new Set(refusals.map(({ code }) => code))).toEqual(new Set(["in_progress"]));
    release();
    expect((await Promise.all(all)).filter((status) => status === 200)).toHaveLength(1);
    expect(runs).toBe(1);
  });
});

test.each([
  ["returns an object", async () => ({ kept: true }), '{"kept":true}'],
  ["returns nothing", async () => undefined, ""],
  ["sends later", (reply: FastifyReply) => void setImmediate(() => reply.send("late")), "late"],
  ["streams", async () => Readable.from(["a", "b"]), "ab"],
] as const)(
  "stores what a handler %s whose client has hung up",
  async (_what, result, expected) => {
    let begin: () => void = () => undefined;
    const begun = new Promise<void>((resolve) => (begin = resolve));
    const app = await appOf(async (request, reply) => {
      begin();
      await new Promise((resolve) => request.raw.socket.once("close", resolve).destroy());
      const given: unknown = await result(reply);
      return given === undefined && expected !== "" ? reply : given;
    });
    await app.listen({ port: 0, host: "127.0.0.1" });
    const key = newKey();
    const socket = connect((app.server.address() as AddressInfo).port, "127.0.0.1");
    socket.on("error", () => undefined);
    const text = JSON.stringify(body);
    socket.write(
      `POST /orders HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nIdempotency-Key: ${key}\r\nContent-Length: ${text.length}\r\n\r\n${text}`,
    );
    await begun;
    const retry = await waitFor(
      async () => {
        const answer = await bySocket(app, { key, body });
        return answer.status === 200 ? answer : undefined;
      },
      { what: "the stored answer" },
    );
    expect(retry.headers["idempotent-replayed"]).toBe("true");
    expect(retry.bytes.toString()).toBe(expected);
    expect(runs).toBe(1);
  },
);
