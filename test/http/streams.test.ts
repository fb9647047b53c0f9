/** Responses that are not held to their end: streams, taken sockets, broken-off ones, and handlers that come too late. */
import { once } from "node:events";
import { connect, type AddressInfo, type Socket } from "node:net";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import type { Server } from "node:http";
import express from "express";
import request from "supertest";

import { createIdempotency, isIdempotencyError } from "../../src/index.js";
import type { Idempotency } from "../../src/index.js";
import { migrate, postgresStore } from "../../src/stores/postgres.js";
import { useDatabase } from "../support/databases.js";
import { waitFor } from "../support/wait-for.js";

let idempotent: Idempotency;
// In front of the check that nothing is left open.
afterAll(() => idempotent.close());

const database = useDatabase({
  prepare: async (pool) => {
    await migrate({ pool });
    await pool.query("CREATE TABLE notes (text text)");
  },
});
let api: express.Express;
let server: Server;
let runs = 0;
let counter = 0;
let key = "";

beforeAll(() => {
  idempotent = createIdempotency({
    store: postgresStore({ pool: database.pool }),
    scope: "global",
    workers: false,
  });
});
beforeEach(() => {
  runs = 0;
  counter += 1;
  key = `stream-${counter}-of-this-file`;
  api = express();
  api.use(express.json());
  server = api.listen(0);
});
afterEach(async () => {
  server.closeAllConnections();
  await new Promise((resolve) => server.close(resolve));
});

function route(options: Parameters<Idempotency>[0], handler: express.RequestHandler): void {
  api.post("/", idempotent(options), (req, res, next) => {
    runs += 1;
    return handler(req, res, next);
  });
}

const retry = () => request(server).post("/").set("Idempotency-Key", key).send({});

/** A client of which every byte is seen as it comes. */
function open(): { socket: Socket; received: () => string } {
  const socket = connect((server.address() as AddressInfo).port, "127.0.0.1");
  const chunks: Buffer[] = [];
  socket.on("data", (chunk: Buffer) => chunks.push(chunk));
  socket.on("error", () => undefined);
  socket.write(
    `POST / HTTP/1.1\r\nHost: test\r\nIdempotency-Key: ${key}\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}`,
  );
  return { socket, received: () => Buffer.concat(chunks).toString("latin1") };
}

async function row(): Promise<{ state: string; not_stored: boolean } | undefined> {
  const sql = "SELECT state, not_stored FROM idempotency_keys WHERE key = $1";
  return (await database.pool.query(sql, [key])).rows[0];
}

/** What retries are told once the key has its final state, and how often the handler has run. */
async function laterAnswers(): Promise<unknown[]> {
  await waitFor(async () => (await row())?.state === "completed");
  const told = [];
  for (let time = 0; time < 2; time += 1) {
    const { status, body } = await retry();
    told.push(`${status} ${body.code}`);
  }
  return [...told, runs];
}

const doneAndNotStored = ["409 response_not_stored", "409 response_not_stored", 1];

describe("a stream", () => {
  test.each<[string, Parameters<Idempotency>[0], express.RequestHandler]>([
    ["that is declared", { stream: true }, (_req, res) => void res.write("data: 1\n\n")],
    [
      "of server-sent events, by writeHead",
      {},
      (_req, res) => {
        res.writeHead(200, { "Content-Type": "text/event-stream; charset=utf-8" });
        res.write("data: 1\n\n");
      },
    ],
    [
      "of server-sent events that is flushed first",
      {},
      (_req, res) => {
        res.set("Content-Type", "text/event-stream").flushHeaders();
        setImmediate(() => res.write("data: 1\n\n"));
      },
    ],
  ])("%s passes as it is written, and its key then answers so", async (_name, options, begin) => {
    let response: express.Response | undefined;
    route(options, (req, res, next) => {
      response = res;
      return begin(req, res, next);
    });
    const { socket, received } = open();
    await waitFor(() => received().includes("data: 1"));
    // The row says so before the first byte leaves.
    expect(await row()).toEqual({ state: "running", not_stored: true });
    expect(received()).toContain("Idempotency-Stored: false");
    expect((await retry()).body.code).toBe("in_progress");
    response?.write("data: 2\n\n");
    await waitFor(() => received().includes("data: 2"));
    response?.end("data: 3\n\n");
    await waitFor(() => received().endsWith("0\r\n\r\n"));
    expect(received()).toContain("data: 3");
    expect(await laterAnswers()).toEqual(doneAndNotStored);
    socket.destroy();
  });

  test("whose head is flushed has its head leave at once", async () => {
    route({ stream: true }, (_req, res) => res.status(202).flushHeaders());
    const { socket, received } = open();
    await waitFor(() => received().startsWith("HTTP/1.1 202 Accepted\r\n"));
    expect(await row()).toEqual({ state: "running", not_stored: true });
    socket.destroy();
    expect(await laterAnswers()).toEqual(doneAndNotStored);
  });

  test("whose client is gone is over", async () => {
    let closed = 0;
    route({}, (_req, res) => {
      res.on("close", () => (closed += 1));
      res.type("text/event-stream").write("data: 1\n\n");
    });
    const { socket, received } = open();
    await waitFor(() => received().includes("data: 1"));
    socket.destroy();
    expect(await laterAnswers()).toEqual(doneAndNotStored);
    await waitFor(() => closed === 1);
  });

  test("that the handler destroys is over", async () => {
    route({ stream: true }, (_req, res) => {
      res.write("half");
      res.destroy();
    });
    const { socket } = open();
    await once(socket, "close");
    expect(await laterAnswers()).toEqual(doneAndNotStored);
  });

  test("that ends with its first call is stored as any other response", async () => {
    route({ stream: true }, (_req, res) => void res.status(422).json({ run: runs }));
    await retry().expect(422, { run: 1 });
    const replayed = await retry().expect(422, { run: 1 });
    expect(replayed.headers["idempotent-replayed"]).toBe("true");
    expect(runs).toBe(1);
  });

  test("of which the handler says that nothing happened leaves the key free", async () => {
    route({ stream: true }, (req, res) => {
      req.idempotency?.release();
      res.write("nothing ");
      res.end("yet");
    });
    expect((await retry().expect(200)).text).toBe("nothing yet");
    await retry().expect(200);
    expect(runs).toBe(2);
  });
});

describe("a handler that takes the socket", () => {
  test("has what it writes leave when the row says so, and the key end with the connection", async () => {
    const seen: unknown[] = [];
    route({}, (req, res) => {
      res.detachSocket(req.socket);
      req.socket.write("HTTP/1.1 101 Switching Protocols\r\n\r\n");
      req.socket.write("raw");
    });
    const { socket, received } = open();
    socket.once("data", () => seen.push(row()));
    await waitFor(() => received().endsWith("raw"));
    expect(received()).toBe("HTTP/1.1 101 Switching Protocols\r\n\r\nraw");
    expect(await Promise.all(seen)).toEqual([{ state: "running", not_stored: true }]);
    socket.destroy();
    expect(await laterAnswers()).toEqual(doneAndNotStored);
  });
});

describe("a handler that breaks its response off", () => {
  test.each<[string, express.RequestHandler]>([
    ["at once", (_req, res) => void res.destroy()],
    [
      "after a part of it",
      (_req, res) => {
        res.write("half");
        setImmediate(() => res.destroy());
      },
    ],
    [
      "by a pipeline whose source fails",
      async (_req, res) => {
        const source = Readable.from(
          (async function* () {
            yield "half";
            throw new Error("the source failed");
          })(),
        );
        await pipeline(source, res).catch(() => undefined);
      },
    ],
  ])("%s has sent nothing, and its key answers so", async (_name, handler) => {
    route({}, handler);
    const { socket, received } = open();
    await once(socket, "close");
    expect(received()).toBe("");
    expect(await laterAnswers()).toEqual(doneAndNotStored);
  });

  test("after it has said that nothing happened leaves the key free", async () => {
    route({}, (req, res) => {
      if (runs > 1) {
        res.json({ run: runs });
        return;
      }
      req.idempotency?.release();
      res.destroy();
    });
    const { socket } = open();
    await once(socket, "close");
    await waitFor(async () => (await row()) === undefined);
    await retry().expect(200, { run: 2 });
    expect(runs).toBe(2);
  });
});

describe("handlerTimeoutMs", () => {
  test("answers the client in time, and the retry gets what the handler answers", async () => {
    let finish: () => void = () => undefined;
    const gate = new Promise<void>((resolve) => (finish = resolve));
    let isDone = false;
    api.use((_req, res, next) => {
      res.set("X-Front", "yes");
      next();
    });
    route({ handlerTimeoutMs: 30 }, async (_req, res) => {
      await gate;
      res.on("close", () => (isDone = true));
      res.status(201).json({ run: runs });
    });
    const late = await retry();
    expect([late.status, late.body.code, late.body.retryable]).toEqual([
      504,
      "handler_timeout",
      true,
    ]);
    expect([late.headers["x-front"], late.headers["idempotency-key"]]).toEqual(["yes", key]);
    expect((await retry()).body.code).toBe("in_progress");
    finish();
    await waitFor(() => isDone);
    const replayed = await retry().expect(201, { run: 1 });
    expect(replayed.headers["idempotent-replayed"]).toBe("true");
    expect(runs).toBe(1);
  });

  test("of a late response that is too large settles the key", async () => {
    let finish: () => void = () => undefined;
    const gate = new Promise<void>((resolve) => (finish = resolve));
    route({ handlerTimeoutMs: 30, maxResponseBytes: 10 }, async (_req, res) => {
      await gate;
      res.end("far more than ten bytes");
    });
    await retry().expect(504);
    finish();
    expect(await laterAnswers()).toEqual(doneAndNotStored);
  });

  test("lets a pipeline that begins after it end as if the client were there", async () => {
    let finish: () => void = () => undefined;
    const gate = new Promise<void>((resolve) => (finish = resolve));
    let ended: Promise<void> | undefined;
    route({ handlerTimeoutMs: 30 }, async (_req, res) => {
      await gate;
      ended = pipeline(Readable.from(["a", "b"]), res.type("text/plain"));
    });
    await retry().expect(504);
    finish();
    await waitFor(() => ended !== undefined);
    await ended;
    await waitFor(async () => (await row())?.state === "completed");
    expect((await retry().expect(200)).text).toBe("ab");
  });

  test("does nothing to a handler that is in time", async () => {
    route({ handlerTimeoutMs: 60_000 }, (_req, res) => void res.json({ run: runs }));
    await retry().expect(200, { run: 1 });
    await retry().expect(200, { run: 1 });
    expect(runs).toBe(1);
  });
});

test("a file that is sent to a client who hangs up is stored all the same", async () => {
  let proceed: () => void = () => undefined;
  const gate = new Promise<void>((resolve) => (proceed = resolve));
  let isGone = false;
  route({}, async (req, res) => {
    req.socket.on("close", () => (isGone = true));
    await gate;
    res.sendFile("package.json", { root: process.cwd() });
  });
  const { socket } = open();
  await waitFor(() => runs === 1);
  socket.destroy();
  await waitFor(() => isGone);
  proceed();
  await waitFor(async () => (await row())?.state === "completed");
  const replayed = await retry().expect(200);
  expect(replayed.body.name).toBe("oncekey");
  expect(runs).toBe(1);
});

describe("a transaction route", () => {
  const note = "INSERT INTO notes (text) VALUES ($1)";
  const notes = async (): Promise<number> =>
    (await database.pool.query("SELECT 1 FROM notes WHERE text = $1", [key])).rows.length;

  test("refuses to send events, writes nothing, and leaves the key free", async () => {
    api.post(
      "/",
      idempotent.transaction(async (_req, res, tx) => {
        runs += 1;
        await tx.query(note, [key]);
        res.set("Content-Type", "text/event-stream").flushHeaders();
        res.write("data: 1\n\n");
        // As of a handler of events: it never settles.
        await new Promise(() => undefined);
      }),
    );
    const { status, body } = await retry();
    expect([status, body.code]).toEqual([500, "response_streamed"]);
    expect(await notes()).toBe(0);
    expect((await retry()).body.code).toBe("response_streamed");
    expect(runs).toBe(2);
  });

  test("that destroys its response has written nothing", async () => {
    api.post(
      "/",
      idempotent.transaction(async (_req, res, tx) => {
        runs += 1;
        await tx.query(note, [key]);
        if (runs === 1) res.destroy();
        else res.json({ run: runs });
      }),
    );
    const { socket } = open();
    await once(socket, "close");
    await waitFor(async () => (await row()) === undefined && (await notes()) === 0);
    await retry().expect(200, { run: 2 });
    expect(await notes()).toBe(1);
  });

  test.each<[string, () => unknown]>([
    ["a transaction", () => idempotent.transaction({ stream: true }, () => undefined)],
    ["a steps", () => idempotent.steps("never", { stream: true }, async () => ({ status: 200 }))],
  ])("%s route cannot be declared a stream", (_name, declare) => {
    let thrown: unknown;
    try {
      declare();
    } catch (error) {
      thrown = error;
    }
    expect(isIdempotencyError(thrown) && thrown.message).toMatch(/stream: only a plain route/);
  });
});
