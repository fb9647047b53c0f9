/**
 * Everything that is measured, each an Express 5 app with one route. Owns: how each is mounted, as its README says, and what it
 * does not do. To add one: an entry here, and its name in `suites.ts`.
 */
import type { Express, Request, RequestHandler } from "express";
import express from "express";
import { Redis } from "ioredis";
import { Pool } from "pg";
import { createIdempotency } from "../../src/index.js";
import type { Cache, Store } from "../../src/index.js";
import { migrate, postgresStore } from "../../src/stores/postgres.js";
import { memoryStore } from "../../src/stores/memory.js";
import { redisCache } from "../../src/stores/redis.js";
import { mountNodeIdempotency, mountExpressIdempotency, mountPowertools } from "./peers.js";

export interface Places {
  readonly databaseUrl: string;
  readonly redisUrl: string;
}

export interface Contender {
  readonly what: string;
  /** Where the first run's answer is when it leaves. */
  readonly keeps: "nothing" | "memory" | "Redis" | "Postgres" | "Postgres and Redis";
  /** What it leaves undone that ours does. */
  readonly lacks: string;
  readonly mount: (app: Express, places: Places) => Promise<void> | void;
}

const isolated = "no lease, fencing token or hold-until-stored";

/** What the handler of every plain contender answers: a charge of some 300 bytes. */
export function charge(body: { readonly amount?: number }): Record<string, unknown> {
  return {
    id: "ch_01HZX3K8V9Q2W4E6R8T0Y1U3I5",
    object: "charge",
    amount: body.amount,
    currency: "usd",
    status: "succeeded",
    created: 1_700_000_000,
    description: "An order of three things and one more thing",
    metadata: { order: "ord_5f0c2a9e", channel: "web" },
    receipt_url: "https://api.example.com/receipts/ch_01HZX3K8V9Q2W4E6R8T0Y1U3I5",
  };
}

/** Handlers that are asked to wait, so that what a request under way takes can be weighed. */
export const gate: { opened: Promise<void> | undefined; waiting: number } = {
  opened: undefined,
  waiting: 0,
};

const answer: RequestHandler = (req, res) => {
  const send = (): void => void res.status(201).json(charge(req.body as { amount?: number }));
  if (gate.opened === undefined) return send();
  gate.waiting += 1;
  void gate.opened.then(send);
};

const insert =
  "INSERT INTO bench_charges (id, amount, currency, description) VALUES (gen_random_uuid(), $1, $2, $3)";

const insertKey = "INSERT INTO bench_keys (key, status, body) VALUES ($1, $2, $3)";

interface Queries {
  query(text: string, values?: readonly unknown[]): Promise<unknown>;
}

async function book(tx: Queries, body: { amount: number; description: string }): Promise<void> {
  await tx.query(insert, [body.amount, "usd", body.description]);
}

async function open(places: Places): Promise<Pool> {
  const pool = new Pool({ connectionString: places.databaseUrl, max: 10 });
  await migrate({ pool });
  return pool;
}

const scope = "global" as const;

/** A handler that does its `work` in a transaction of its own. */
function mountByHand(
  app: Express,
  pool: Pool,
  work: (tx: Queries, req: Request) => Promise<void>,
): void {
  app.post("/charges", async (req, res) => {
    const client = await pool.connect();
    try {
      await client.query("BEGIN");
      await work(client, req);
      await client.query("COMMIT");
    } finally {
      client.release();
    }
    res.status(201).json(charge(req.body));
  });
}

function mountTransaction(app: Express, store: Store, cache?: Cache): void {
  const options = cache === undefined ? { store, scope } : { store, cache, scope };
  const handler = createIdempotency(options).transaction(async (req, res, tx) => {
    await book(tx, req.body);
    res.status(201).json(charge(req.body));
  });
  app.post("/charges", handler);
}

export const contenders: Readonly<Record<string, Contender>> = {
  bare: {
    what: "Express 5 with express.json(), and no middleware",
    keeps: "nothing",
    lacks: "everything",
    mount: (app) => void app.post("/charges", answer),
  },
  "oncekey-plain": {
    what: "ours, plain route: claim and response durable in Postgres, cached in Redis",
    keeps: "Postgres and Redis",
    lacks: "",
    mount: async (app, places) => {
      const store = postgresStore({ pool: await open(places) });
      const cache = redisCache({ client: new Redis(places.redisUrl) });
      app.post("/charges", createIdempotency({ store, cache, scope })(), answer);
    },
  },
  "oncekey-plain-postgres": {
    what: "ours, plain route, Postgres alone",
    keeps: "Postgres",
    lacks: "",
    mount: async (app, places) => {
      const store = postgresStore({ pool: await open(places) });
      app.post("/charges", createIdempotency({ store, scope })(), answer);
    },
  },
  "oncekey-redis-only": {
    what: "ours, plain route, Postgres and Redis, without the near cache",
    keeps: "Postgres and Redis",
    lacks: "",
    mount: async (app, places) => {
      const store = postgresStore({ pool: await open(places) });
      const cache = redisCache({ client: new Redis(places.redisUrl) });
      const idempotent = createIdempotency({ store, cache, nearCache: false, scope });
      app.post("/charges", idempotent(), answer);
    },
  },
  "oncekey-postgres-only": {
    what: "ours, plain route, Postgres alone, without the near cache",
    keeps: "Postgres",
    lacks: "",
    mount: async (app, places) => {
      const store = postgresStore({ pool: await open(places) });
      const idempotent = createIdempotency({ store, nearCache: false, scope });
      app.post("/charges", idempotent(), answer);
    },
  },
  "oncekey-memory": {
    what: "ours, plain route, memory store",
    keeps: "memory",
    lacks: "",
    mount: (app) =>
      void app.post("/charges", createIdempotency({ store: memoryStore(), scope })(), answer),
  },
  "transaction-bare": {
    what: "a handler in its own BEGIN, INSERT, COMMIT",
    keeps: "nothing",
    lacks: "everything",
    mount: async (app, places) =>
      mountByHand(app, await open(places), (tx, req) => book(tx, req.body)),
  },
  "transaction-by-hand": {
    what: "the same handler, which inserts its key and its response itself: the least that exactly once takes",
    keeps: "Postgres",
    lacks:
      "no fingerprint, lease, replay or refusal; a concurrent equal request waits; headers are not stored",
    mount: async (app, places) =>
      mountByHand(app, await open(places), async (tx, req) => {
        await book(tx, req.body);
        const response = JSON.stringify(charge(req.body));
        await tx.query(insertKey, [req.get("Idempotency-Key"), 201, response]);
      }),
  },
  "oncekey-transaction": {
    what: "ours, transaction route: claim, INSERT and response in one commit",
    keeps: "Postgres and Redis",
    lacks: "",
    mount: async (app, places) => {
      const cache = redisCache({ client: new Redis(places.redisUrl) });
      mountTransaction(app, postgresStore({ pool: await open(places) }), cache);
    },
  },
  "oncekey-transaction-postgres": {
    what: "the same, Postgres alone",
    keeps: "Postgres",
    lacks: "",
    mount: async (app, places) =>
      mountTransaction(app, postgresStore({ pool: await open(places) })),
  },
  "express-idempotency-memory": {
    what: "express-idempotency 1.0.6 with the store it brings",
    keeps: "memory",
    lacks: `${isolated}; concurrent equal requests both run; nothing survives the process`,
    mount: (app) => mountExpressIdempotency(app, "/charges", answer, undefined),
  },
  "express-idempotency-postgres": {
    what: "express-idempotency 1.0.6 with a Postgres adapter as its README describes one",
    keeps: "Postgres",
    lacks: `${isolated}; concurrent equal requests both run`,
    mount: async (app, places) =>
      mountExpressIdempotency(app, "/charges", answer, await open(places)),
  },
  "node-idempotency-redis": {
    what: "@node-idempotency/core 1.0.11 with its Redis storage",
    keeps: "Redis",
    lacks: `${isolated}; headers are not stored; a lost Redis runs work twice`,
    mount: (app, places) => mountNodeIdempotency(app, "/charges", charge, places.redisUrl),
  },
  "powertools-redis": {
    what: "@aws-lambda-powertools/idempotency 2.35.0 around the handler's function, with its Redis layer",
    keeps: "Redis",
    lacks: `${isolated}; keeps a function's result and no response; a key reused for another request is answered with the first one's result; a lost Redis runs work twice`,
    mount: (app, places) => mountPowertools(app, "/charges", charge, places.redisUrl),
  },
};

/** The app of a contender, ready to listen. */
export async function createApp(name: string, places: Places): Promise<Express> {
  const contender = contenders[name];
  if (contender === undefined) throw new Error(`no contender is called ${name}`);
  const app = express();
  app.use(express.json());
  await contender.mount(app, places);
  return app;
}
