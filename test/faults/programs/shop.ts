/**
 * A small API that mounts the library as its users do. Every handler reports to the gate of the test (see gate.ts) and waits
 * there when it is held; every run answers another id, so that no run can pass for another one.
 */
import { randomUUID } from "node:crypto";
import { Readable } from "node:stream";

import express from "express";
import { Redis } from "ioredis";
import pg from "pg";

import { createIdempotency } from "../../../src/index.js";
import { postgresStore } from "../../../src/stores/postgres.js";
import { redisCache } from "../../../src/stores/redis.js";

type Settings = {
  databaseUrl: string;
  gateUrl: string;
  redisUrl?: string;
  storeTimeoutMs?: number;
  connectTimeoutMs?: number;
  poolSize?: number;
  transactionTimeoutMs?: number;
  idempotency?: object;
};

const settings = JSON.parse(process.env["SHOP"] ?? "{}") as Settings;
const pool = new pg.Pool({
  connectionString: settings.databaseUrl,
  max: settings.poolSize ?? 5,
  connectionTimeoutMillis: settings.connectTimeoutMs ?? 2_000,
});
pool.on("error", () => undefined);
const redis =
  settings.redisUrl === undefined
    ? undefined
    : new Redis(settings.redisUrl, { enableOfflineQueue: false, maxRetriesPerRequest: 0 });
redis?.on("error", () => undefined);

const idempotent = createIdempotency({
  store: postgresStore({ pool, timeoutMs: settings.storeTimeoutMs ?? 2_000 }),
  ...(redis === undefined ? {} : { cache: redisCache({ client: redis }) }),
  scope: "global",
  hooks: {
    onEvent: (event) => {
      const word = "during" in event ? event.during : "";
      console.log(`event ${event.type} ${word} ${"error" in event ? String(event.error) : ""}`);
    },
  },
  ...settings.idempotency,
});

/** Tells the test that a handler runs, and waits there where the test wants it to. */
async function pass(req: express.Request): Promise<void> {
  await fetch(`${settings.gateUrl}/${encodeURIComponent(req.idempotency?.key ?? "none")}`);
}

const answer = (): object => ({ id: randomUUID(), pid: process.pid });

const app = express();
app.use(express.json());
app.use((req, _res, next) => {
  // Of the socket and not of the response, whose events the library holds back.
  req.socket.once("close", () => console.log("client gone"));
  next();
});

app.post("/plain", idempotent({ required: true }), async (req, res) => {
  await pass(req);
  res.status(201).json(answer());
});

app.post("/rerun", idempotent({ required: true, afterCrash: "rerun" }), async (req, res) => {
  await pass(req);
  res.status(201).json(answer());
});

app.post("/pipe", idempotent({ required: true }), (req, res) => {
  const parts = async function* (): AsyncGenerator<string> {
    yield `first ${randomUUID()}\n`;
    await pass(req);
    yield `second ${randomUUID()}\n`;
  };
  res.status(201).type("text/plain");
  Readable.from(parts()).pipe(res);
});

const small = { required: true, maxResponseBytes: 10 } as const;
app.post("/rerun-large", idempotent({ ...small, afterCrash: "rerun" }), async (req, res) => {
  await pass(req);
  res.status(201).json(answer());
});

app.post(
  "/transaction",
  idempotent.transaction(
    { required: true, transactionTimeoutMs: settings.transactionTimeoutMs ?? 10_000 },
    async (req: express.Request, res: express.Response, tx) => {
      const made = answer();
      await tx.query("INSERT INTO effects (key) VALUES ($1)", [req.idempotency?.key]);
      await pass(req);
      res.status(201).json(made);
    },
  ),
);

const server = app.listen(0, "127.0.0.1", () => {
  const address = server.address();
  if (address !== null && typeof address === "object") console.log(`ready ${address.port} `);
});
