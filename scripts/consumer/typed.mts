/** A user's program: TypeScript, ES module. scripts/package-matrix.mjs compiles it against the packed package and runs it. */
import { randomUUID } from "node:crypto";
import type { AddressInfo } from "node:net";

import express, { type Request, type Response } from "express";
import { createIdempotency, isIdempotencyError } from "oncekey";
import type { ErrorCode, Idempotency, IdempotencyOptions } from "oncekey";
import { memoryStore } from "oncekey/memory";
import { postgresStore } from "oncekey/postgres";
import { redisCache } from "oncekey/redis";
import { Redis } from "ioredis";
import pg from "pg";

const options: IdempotencyOptions<Request> = { store: memoryStore(), scope: "global" };
const idempotent: Idempotency = createIdempotency(options);
const app = express();
app.use(express.json());

let runs = 0;
app.post("/orders", idempotent({ required: true }), (req: Request, res: Response) => {
  runs += 1;
  const { item } = req.body as { item: string };
  const key: string | undefined = req.idempotency?.key;
  res.status(201).json({ id: randomUUID(), item, key });
});
app.get("/runs", (_req, res) => {
  res.json(runs);
});
app.post("/stop", (_req, res) => {
  res.set("Connection", "close").end();
  server.close(() => void idempotent.close());
});
const server = app.listen(0, "127.0.0.1", () =>
  console.log((server.address() as AddressInfo).port),
);

/** Never called: what a user of Postgres and Redis writes must compile without a cast. */
export function withServers(pool: pg.Pool, client: Redis): Idempotency {
  const durable = createIdempotency({
    store: postgresStore({ pool }),
    cache: redisCache({ client }),
    scope: (req: Request) => req.ip ?? "nobody",
  });
  app.post(
    "/charges",
    durable.transaction(async (req, res, tx) => {
      const { rows } = await tx.query<{ one: number }>("SELECT 1 AS one");
      res.json({ one: rows[0]?.one, path: req.path });
    }),
  );
  app.post(
    "/checkouts",
    durable.steps("checkout", async (request, steps) => {
      const paid = await steps.call("pay", () => Promise.resolve({ id: request.key }));
      return { status: 201, body: paid };
    }),
  );
  return durable;
}

export function codeOf(error: unknown): ErrorCode | undefined {
  return isIdempotencyError(error) ? error.code : undefined;
}
