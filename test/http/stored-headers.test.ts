/** Which headers a replay has from the store, and which from its own request, with the middleware that apps really mount. */
import type { IncomingMessage, ServerResponse } from "node:http";
import compression from "compression";
import cors from "cors";
import express from "express";
import { rateLimit } from "express-rate-limit";
import session from "express-session";
import helmet from "helmet";
import morgan from "morgan";
import onFinished from "on-finished";
import { pinoHttp } from "pino-http";
import responseTime from "response-time";
import request from "supertest";

import { createIdempotency } from "../../src/index.js";
import type { Idempotency } from "../../src/index.js";
import { memoryStore } from "../../src/stores/memory.js";
import { waitFor } from "../support/wait-for.js";

let idempotent: Idempotency;
let runs = 0;
let counter = 0;

beforeEach(() => {
  runs = 0;
  idempotent = createIdempotency({ store: memoryStore(), scope: "global", workers: false });
});
afterEach(() => idempotent.close());

type Front = (req: express.Request, res: express.Response, next: express.NextFunction) => void;

function app(
  parts: { front?: readonly Front[]; behind?: readonly Front[] },
  handler: express.RequestHandler,
  route?: Parameters<Idempotency>[0],
): express.Express {
  const api = express();
  for (const front of parts.front ?? []) api.use(front);
  api.use(express.json());
  api.post("/", idempotent(route), ...(parts.behind ?? []), (req, res, next) => {
    runs += 1;
    return handler(req, res, next);
  });
  return api;
}

async function twice(api: express.Express, headers: readonly Record<string, string>[] = []) {
  const key = `headers-${(counter += 1)}-of-this-file`;
  const send = (extra = {}) =>
    request(api).post("/").set("Idempotency-Key", key).set(extra).send({ amount: 1 });
  const first = await send(headers[0]);
  const replay = await send(headers[1]);
  expect(runs).toBe(1);
  expect(replay.headers["idempotent-replayed"]).toBe("true");
  expect(replay.status).toBe(first.status);
  expect(replay.text).toBe(first.text);
  return { first: first.headers, replay: replay.headers };
}

const answer: express.RequestHandler = (_req, res) =>
  void res.status(201).set("Location", "/orders/1").json({ id: 1 });

describe("middleware in front is told to a replay by its own request", () => {
  test("helmet, with a new nonce each time", async () => {
    let nonces = 0;
    const scriptSrc = [() => `'nonce-${(nonces += 1)}'`];
    const front = helmet({ contentSecurityPolicy: { directives: { scriptSrc } } });
    const { first, replay } = await twice(app({ front: [front] }, answer));
    expect(first["content-security-policy"]).toContain("nonce-1");
    expect(replay["content-security-policy"]).toContain("nonce-2");
    expect(replay["x-content-type-options"]).toBe("nosniff");
    expect(replay["location"]).toBe("/orders/1");
  });

  test("cors, of another origin", async () => {
    const front = cors({ origin: ["https://a.example", "https://b.example"], credentials: true });
    const { first, replay } = await twice(app({ front: [front] }, answer), [
      { Origin: "https://a.example" },
      { Origin: "https://b.example" },
    ]);
    expect(first["access-control-allow-origin"]).toBe("https://a.example");
    expect(replay["access-control-allow-origin"]).toBe("https://b.example");
    expect(replay["vary"]).toBe("Origin");
  });

  test("limits, which count the replay too", async () => {
    const front = rateLimit({ windowMs: 60_000, limit: 5, standardHeaders: true });
    const { first, replay } = await twice(app({ front: [front] }, answer));
    expect([first["ratelimit-remaining"], replay["ratelimit-remaining"]]).toEqual(["4", "3"]);
  });

  test("times and ids, also where they are set as the head is sent", async () => {
    let ids = 0;
    const lines: string[] = [];
    const front = [
      responseTime((_req: IncomingMessage, res: ServerResponse) => {
        res.setHeader("X-Response-Time", `run ${runs}, id ${ids}`);
      }),
      pinoHttp(
        {
          genReqId: (_req, res) => {
            ids += 1;
            res.setHeader("X-Request-Id", `req-${ids}`);
            return `req-${ids}`;
          },
        },
        { write: (line) => void lines.push(line) },
      ),
    ];
    const { first, replay } = await twice(app({ front }, answer));
    expect([first["x-request-id"], replay["x-request-id"]]).toEqual(["req-1", "req-2"]);
    expect([first["x-response-time"], replay["x-response-time"]]).toEqual([
      "run 1, id 1",
      "run 1, id 2",
    ]);
    expect(replay["original-request"]).toBe("req-1");
    await waitFor(() => lines.length === 2);
    expect(lines.map((line) => JSON.parse(line).res.statusCode)).toEqual([201, 201]);
  });

  test("sessions, whose cookies are each client's own", async () => {
    const front = session({ secret: "of the test", resave: false, saveUninitialized: true });
    const { first, replay } = await twice(app({ front: [front] }, answer));
    const [one, two] = [first["set-cookie"]?.[0], replay["set-cookie"]?.[0]];
    expect(one).toMatch(/^connect\.sid=/);
    expect(two).toMatch(/^connect\.sid=/);
    expect(two).not.toBe(one);
  });

  test("compression, as each client accepts it", async () => {
    const front = compression({ threshold: 0 }) as unknown as Front;
    const { first, replay } = await twice(app({ front: [front] }, answer), [
      { "Accept-Encoding": "gzip" },
      { "Accept-Encoding": "identity" },
    ]);
    expect([first["content-encoding"], replay["content-encoding"]]).toEqual(["gzip", undefined]);
  });
});

describe("middleware behind is part of the handler", () => {
  test("compression is stored with its bytes", async () => {
    const behind = compression({ threshold: 0 }) as unknown as Front;
    const { replay } = await twice(app({ behind: [behind] }, answer));
    expect(replay["content-encoding"]).toBe("gzip");
  });

  test("limits, times, ids and cookies of one exchange are not stored", async () => {
    const behind = [
      rateLimit({ windowMs: 60_000, limit: 5, standardHeaders: true }) as unknown as Front,
      responseTime(),
      session({ secret: "of the test", resave: false, saveUninitialized: true }),
    ];
    const { first, replay } = await twice(
      app({ behind }, (req, res, next) => {
        res.set({ "X-Request-Id": "req-1", traceparent: "00-1", "X-Kept": "1" });
        return answer(req, res, next);
      }),
    );
    const ofOne = ["ratelimit-remaining", "x-response-time", "x-request-id", "traceparent"];
    for (const name of [...ofOne, "set-cookie"]) {
      expect(first[name]).toBeDefined();
      expect(replay[name]).toBeUndefined();
    }
    expect([replay["location"], replay["x-kept"]]).toEqual(["/orders/1", "1"]);
  });
});

describe("storeHeaders", () => {
  const handler: express.RequestHandler = (req, res, next) => {
    res.set({ "X-Request-Id": "of the handler", "X-Cost": "7", "Set-Cookie": "a=1" });
    return answer(req, res, next);
  };

  test("only stores these, and what says how the body is read", async () => {
    const { replay } = await twice(
      app({}, handler, { storeHeaders: { only: ["x-request-ID", "Location"] } }),
    );
    expect(replay["x-request-id"]).toBe("of the handler");
    expect(replay["location"]).toBe("/orders/1");
    expect(replay["content-type"]).toBe("application/json; charset=utf-8");
    expect([replay["x-cost"], replay["etag"], replay["set-cookie"]]).toEqual([
      undefined,
      undefined,
      undefined,
    ]);
  });

  test("except stores all others that are stored without it", async () => {
    const { replay } = await twice(app({}, handler, { storeHeaders: { except: ["X-Cost"] } }));
    expect([replay["x-cost"], replay["x-request-id"], replay["set-cookie"]]).toEqual([
      undefined,
      undefined,
      undefined,
    ]);
    expect(replay["location"]).toBe("/orders/1");
  });

  test.each([
    [{ only: ["Set-Cookie"] }, /only: Set-Cookie can never be stored/],
    [{ only: ["Idempotency-Key", "date"] }, /Idempotency-Key can never.*date can never/],
    [{ except: ["Content-Type"] }, /except: without Content-Type/],
    [{ only: ["a"], except: ["b"] }, /give only or except, not both/],
    [{ only: ["no name"] }, /must be a header's name/],
    [{ other: [] }, /other: is not an option/],
    [5, /storeHeaders/],
    [{ only: 5 }, /storeHeaders\.only/],
  ])("%j is refused when the route is made", (storeHeaders, message) => {
    expect(() => idempotent({ storeHeaders: storeHeaders as object })).toThrow(message);
  });
});

describe("what watches a response", () => {
  test("hears of its end once, when it has left", async () => {
    const heard: string[] = [];
    const logged: string[] = [];
    const front: Front[] = [
      morgan(":status :res[content-length]", { stream: { write: (line) => logged.push(line) } }),
      (_req, res, next) => {
        onFinished(res, () => heard.push(`on-finished ${res.headersSent}`));
        res.on("finish", () => heard.push(`finish ${res.writableFinished}`));
        res.on("close", () => heard.push("close"));
        next();
      },
    ];
    const during: unknown[] = [];
    const api = app({ front }, (_req, res) => {
      onFinished(res, () => heard.push("on-finished in the handler"));
      during.push(onFinished.isFinished(res), res.finished, res.writableFinished);
      res.status(201).send("ok");
      during.push(res.finished, res.writableEnded, res.writableFinished, res.headersSent);
      during.push(heard.length);
    });
    const key = `headers-${(counter += 1)}-of-this-file`;
    await request(api).post("/").set("Idempotency-Key", key).send({}).expect(201);
    await waitFor(() => heard.includes("close"));
    expect(during).toEqual([false, false, false, false, true, false, true, 0]);
    expect([...heard].sort()).toEqual([
      "close",
      "finish true",
      "on-finished in the handler",
      "on-finished true",
    ]);
    expect(logged).toEqual(["201 2\n"]);
  });
});
