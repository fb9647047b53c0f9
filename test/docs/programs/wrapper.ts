/**
 * What the fragments of code in the README and in docs may take for granted: a pool, an app, an instance, and a few functions
 * that stand for the reader's own. Each fragment runs inside a function that sees all of these, and may shadow them.
 */
import { once } from "node:events";
import type { AddressInfo } from "node:net";

import express from "express";
import { Redis } from "ioredis";
import pg from "pg";

import { createIdempotency, isIdempotencyError, keepRawBody } from "../../../src/index.js";
import { memoryStore } from "../../../src/stores/memory.js";
import { migrate, postgresStore } from "../../../src/stores/postgres.js";
import { redisCache } from "../../../src/stores/redis.js";

export {
  createIdempotency,
  express,
  isIdempotencyError,
  keepRawBody,
  memoryStore,
  migrate,
  pg,
  postgresStore,
  Redis,
  redisCache,
};

export const pool = new pg.Pool({ connectionString: process.env["DATABASE_URL"] });
pool.on("error", () => undefined);

export const idempotent = createIdempotency({ store: postgresStore({ pool }), scope: "global" });

export const authenticate: express.RequestHandler = (req, _res, next) => {
  Object.assign(req, { account: { id: "acct_1" } });
  next();
};
export const rateLimit: express.RequestHandler = (_req, _res, next) => next();
export const validateOrder: express.RequestHandler = (_req, _res, next) => next();

let orders = 0;
export const createOrder: express.RequestHandler = (_req, res) => {
  orders += 1;
  res.status(201).json({ id: `or_${orders}` });
};

let payments = 0;
export const provider = {
  charge: async (_payment: {
    readonly order?: number;
    readonly idempotencyKey?: string | undefined;
    readonly signal?: AbortSignal;
  }): Promise<{ id: string }> => {
    payments += 1;
    return { id: `pay_${payments}` };
  },
  quote: async (): Promise<{ price: number } | undefined> => ({ price: 100 }),
};

export const app = express();
app.use(authenticate, express.json({ verify: keepRawBody }));

/** The address of an API of somebody else's, for what calls one. */
const charges = express();
charges.use(express.json(), express.urlencoded({ extended: false }));
charges.post("/v1/charges", idempotent({ required: true }), createOrder);
const listener = charges.listen(0, "127.0.0.1");
await once(listener, "listening");
export const api = `http://127.0.0.1:${(listener.address() as AddressInfo).port}`;
