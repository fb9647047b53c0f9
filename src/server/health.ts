/**
 * What orchestrators ask. Owns: `/healthz` (the process runs), `/readyz` (it can do its work) and `/metrics`.
 */
import type { RequestHandler } from "express";
import type { Pool } from "pg";
import type { Registry } from "prom-client";
import { assertSchema } from "../stores/postgres.js";
import { assertLedger } from "./ledger.js";
import { ApiError } from "./wire.js";

/** A check that takes longer counts as failed; orchestrators give up on a probe at about the same time. */
const checkTimeoutMs = 2_000;
/** Redis decides nothing here, so a hung one must not make the answer late. */
const redisTimeoutMs = 250;

/** The part of a Redis client that a check needs. */
export interface Pingable {
  ping(): Promise<unknown>;
}

export interface Readiness {
  readonly pool: Pool;
  /** Undefined when the server has none. */
  readonly redis: Pingable | undefined;
  readonly isDraining: () => boolean;
}

/** 200 as long as the process answers at all: a restart would not bring a lost database back. */
export const healthy: RequestHandler = (_req, res) => {
  res.json({ status: "ok" });
};

/**
 * 200 when Postgres answers and the tables are there. Redis is reported and not required: without it everything works, and
 * more slowly.
 */
export function ready({ pool, redis, isDraining }: Readiness): RequestHandler {
  const checkPostgres = async (): Promise<string> => {
    await within(checkTimeoutMs, Promise.all([assertSchema({ pool }), assertLedger(pool)]));
    return "ok";
  };
  const checkRedis = async (): Promise<string> => {
    if (redis === undefined) return "off";
    await within(redisTimeoutMs, redis.ping());
    return "ok";
  };
  return async (_req, res) => {
    if (isDraining()) throw new ApiError("not_ready", "The server is shutting down.");
    const [postgresState, redisState] = await Promise.all([
      checkPostgres().catch(() => "down"),
      checkRedis().catch(() => "down"),
    ]);
    if (postgresState !== "ok") {
      throw new ApiError("not_ready", "Postgres does not answer, or its tables are missing.");
    }
    res.json({ status: "ready", postgres: postgresState, redis: redisState });
  };
}

export function metricsOf(
  registry: Registry,
  scrape: () => Promise<string | undefined> = () => registry.metrics(),
): RequestHandler {
  return async (_req, res) => {
    const text = await scrape();
    if (text === undefined)
      throw new ApiError("not_ready", "A process of this server did not give its figures in time.");
    res.setHeader("Content-Type", registry.contentType);
    res.end(text);
  };
}

async function within<T>(ms: number, work: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(() => reject(new Error(`no answer within ${ms} ms`)), ms);
  });
  try {
    return await Promise.race([work, late]);
  } finally {
    clearTimeout(timer);
  }
}
