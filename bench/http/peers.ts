/**
 * The other packages, mounted as their READMEs say. Owns: what a user would have to write around each. None is helped, and none
 * is held back.
 */
import { createHash } from "node:crypto";
import { makeIdempotent, IdempotencyConfig } from "@aws-lambda-powertools/idempotency";
import { CachePersistenceLayer } from "@aws-lambda-powertools/idempotency/cache";
import { Idempotency } from "@node-idempotency/core";
import { RedisStorageAdapter } from "@node-idempotency/storage-adapter-redis";
import { createClient } from "@redis/client";
import type { Express, RequestHandler } from "express";
import expressIdempotency from "express-idempotency";
import type { Pool } from "pg";

type LambdaContext = Parameters<IdempotencyConfig["registerLambdaContext"]>[0];
type Work = (body: Record<string, unknown>) => Record<string, unknown>;

/** A data adapter as its README asks for; the package has none for Postgres. */
function postgresAdapter(pool: Pool) {
  const table = "bench_express_idempotency";
  return {
    findByIdempotencyKey: async (key: string) => {
      const found = await pool.query(`SELECT resource FROM ${table} WHERE key = $1`, [key]);
      return found.rows[0]?.resource ?? null;
    },
    create: async (resource: { idempotencyKey: string }) => {
      await pool.query(`INSERT INTO ${table} (key, resource) VALUES ($1, $2)`, [
        resource.idempotencyKey,
        resource,
      ]);
    },
    update: async (resource: { idempotencyKey: string }) => {
      await pool.query(`UPDATE ${table} SET resource = $2 WHERE key = $1`, [
        resource.idempotencyKey,
        resource,
      ]);
    },
    delete: async (key: string) => {
      await pool.query(`DELETE FROM ${table} WHERE key = $1`, [key]);
    },
  };
}

export function mountExpressIdempotency(
  app: Express,
  path: string,
  answer: RequestHandler,
  pool: Pool | undefined,
): void {
  const options = pool === undefined ? {} : { dataAdapter: postgresAdapter(pool) };
  app.post(path, expressIdempotency.idempotency(options), (req, res, next) => {
    if (expressIdempotency.getSharedIdempotencyService().isHit(req)) return;
    void answer(req, res, next);
  });
}

export async function mountNodeIdempotency(
  app: Express,
  path: string,
  work: Work,
  redisUrl: string,
): Promise<void> {
  const storage = new RedisStorageAdapter({ url: redisUrl });
  await storage.connect();
  const idempotency = new Idempotency(storage);
  app.post(path, async (req, res) => {
    const params = { method: req.method, headers: req.headers, body: req.body, path: req.path };
    const stored = await idempotency.onRequest<Record<string, unknown>, unknown>(params);
    if (stored !== undefined) {
      res.setHeader("x-replayed", "true");
      res.status(Number(stored.additional?.["status"])).json(stored.body);
      return;
    }
    const body = work(req.body);
    await idempotency.onResponse(params, { body, additional: { status: 201 } });
    res.status(201).json(body);
  });
}

export async function mountPowertools(
  app: Express,
  path: string,
  work: Work,
  redisUrl: string,
): Promise<void> {
  const client = await createClient({ url: redisUrl }).connect();
  const config = new IdempotencyConfig({ eventKeyJmesPath: "key" });
  // Outside of Lambda nothing else says how long a run may take, and the package warns at every call.
  config.registerLambdaContext({ getRemainingTimeInMillis: () => 30_000 } as LambdaContext);
  const charge = makeIdempotent(
    async (event: { key: string; body: Record<string, unknown> }) => work(event.body),
    {
      persistenceStore: new CachePersistenceLayer({ client }),
      // Without `payloadValidationJmesPath`: this layer drops the payload's hash at completion, and every replay then fails.
      config,
      keyPrefix: createHash("sha256").update(path).digest("hex").slice(0, 8),
    },
  );
  app.post(path, async (req, res) => {
    const result = await charge({ key: String(req.get("idempotency-key")), body: req.body });
    res.status(201).json(result);
  });
}
