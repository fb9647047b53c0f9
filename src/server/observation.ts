/**
 * What operators see: the request's id, one log line per request, and metrics. Must never write a key, a body, a query or
 * a credential: log lines are made of a few chosen fields, and no header is among them.
 */
import { randomBytes } from "node:crypto";
import type { Request, RequestHandler, Response } from "express";
import type { Pool } from "pg";
import { pino } from "pino";
import type { DestinationStream, Logger } from "pino";
import { pinoHttp } from "pino-http";
import { collectDefaultMetrics, Counter, Gauge, Histogram, Registry } from "prom-client";
import type { IdempotencyEvent } from "../index.js";
import type { AggregateEvent } from "../pipeline.js";
import type { UploadSummary } from "./upload.js";
import { pathOf } from "./wire.js";

/** Belt and braces: nothing below logs these, and a later line that would is censored. */
const redacted = [
  "req.headers",
  "res.headers",
  "*.authorization",
  "*.body",
  "*.idempotencyKey",
  '*["idempotency-key"]',
];

/** A logger of JSON lines; to standard error unless a stream is given, so that standard output is for people. */
export function createLogger(
  level: string,
  stream: DestinationStream = pino.destination(2),
): Logger {
  const redact = { paths: redacted, remove: true };
  return pino({ level, redact, serializers: { err: describeError } }, stream);
}

const serializers = {
  req: (req: Request) => ({ id: req.id, method: req.method, path: pathOf(req) }),
  res: (res: Response) => ({ status: res.statusCode }),
  err: describeError,
};

/** What of an error may be logged. Messages of Postgres and of parsers quote the values they choked on. */
function describeError(error: unknown): Record<string, unknown> {
  if (!(error instanceof Error)) return { type: typeof error };
  const { code, severity, type, table, constraint, routine, expose } = error as Error &
    Record<string, unknown>;
  const isQuoting = severity !== undefined || expose === true;
  // The first line of a stack is the message.
  const frames = error.stack?.split("\n").filter((line) => /^\s+at /.test(line));
  return {
    type: error.name,
    code: code ?? type,
    ...(isQuoting ? { table, constraint, routine } : { message: error.message }),
    stack: frames?.join("\n"),
    ...(error.cause === undefined ? {} : { cause: describeError(error.cause) }),
    ...(error instanceof AggregateError ? { errors: error.errors.map(describeError) } : {}),
  };
}

/** Gives every request an id, says it in `Request-Id`, and writes a line when the response is done. */
export function logRequests(logger: Logger): RequestHandler {
  const log = pinoHttp<Request, Response>({
    logger,
    serializers,
    // Wrapped, they would be handed pino-http's own extract, headers included.
    wrapSerializers: false,
    genReqId: (_req, res) => {
      const id = `req_${randomBytes(12).toString("hex")}`;
      res.setHeader("Request-Id", id);
      return id;
    },
    customLogLevel: (_req, res, error) =>
      error !== undefined || res.statusCode >= 500 ? "error" : "info",
    // Probes and scrapes come every few seconds and say nothing when they succeed.
    autoLogging: { ignore: (req) => /^\/(?:healthz|readyz|metrics)$/.test(pathOf(req)) },
  });
  return (req, res, next) => log(req, res, next);
}

export interface Metrics {
  readonly registry: Registry;
  /** Measures each request; labels are the route's pattern, never a path that a client chose. */
  readonly measure: RequestHandler;
  readonly onEvent: (event: IdempotencyEvent) => void;
  readonly onUpload: (summary: UploadSummary) => void;
  readonly onAggregate: (event: AggregateEvent) => void;
}

/** The metrics of one server, in a registry of their own. */
export function createMetrics(pool: Pool): Metrics {
  const registry = new Registry();
  const registers = [registry];
  collectDefaultMetrics({ register: registry });
  const durations = new Histogram({
    name: "http_request_duration_seconds",
    help: "Time from the arrival of a request to the end of its response.",
    labelNames: ["method", "route", "status"],
    buckets: [0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30],
    registers,
  });
  const events = new Counter({
    name: "oncekey_events_total",
    help: "What became of keyed requests, by the library's events; detail is the refusal's code, the guarantee or the verb.",
    labelNames: ["type", "detail"],
    registers,
  });
  const uploaded = new Counter({
    name: "oncekey_uploaded_events_total",
    help: "Events of uploads that came to their end, by what became of them.",
    labelNames: ["outcome"],
    registers,
  });
  const recomputed = new Counter({
    name: "oncekey_recomputed_keys_total",
    help: "Days of merchants that were computed anew; failed ones are tried again.",
    labelNames: ["outcome"],
    registers,
  });
  const connections = new Gauge({
    name: "oncekey_postgres_pool_connections",
    help: "Connections of the server's Postgres pool; waiting counts requests without one.",
    labelNames: ["state"],
    registers,
    collect: () => {
      connections.set({ state: "idle" }, pool.idleCount);
      connections.set({ state: "used" }, pool.totalCount - pool.idleCount);
      connections.set({ state: "waiting" }, pool.waitingCount);
    },
  });
  return {
    registry,
    measure: (req, res, next) => {
      const end = durations.startTimer({ method: methodOf(req) });
      // `close` comes after `finish`, and also when the client hung up.
      res.once("close", () => end({ route: routeOf(req), status: res.statusCode }));
      next();
    },
    onUpload: ({ inserted, updated, duplicates, rejected }) => {
      const outcomes = { inserted, updated, duplicate: duplicates, rejected };
      for (const [outcome, count] of Object.entries(outcomes)) uploaded.inc({ outcome }, count);
    },
    onAggregate: (event) => {
      if (event.type !== "recomputed") return;
      recomputed.inc({ outcome: "computed" }, event.keys);
      recomputed.inc({ outcome: "failed" }, event.failed);
    },
    onEvent: (event) => events.inc({ type: event.type, detail: detailOf(event) }),
  };
}

/** Logs what an operator should look into; the rest of the events is everyday life, and metrics count it. */
export function logEvent(logger: Logger, event: IdempotencyEvent): void {
  const { type } = event;
  if ("error" in event) logger.error({ event: type, err: event.error }, "idempotency failed");
  else if (type === "unstored" || type === "lost" || type === "overrun") {
    logger.warn({ event: type }, "the outcome of a keyed request could not be stored in time");
  }
}

/** Logs what keeps a figure from being up to date. */
export function logAggregate(logger: Logger, event: AggregateEvent): void {
  const { type, aggregate } = event;
  if (type === "store_error") logger.error({ aggregate, err: event.error }, "recompute failed");
  else if (event.failed > 0)
    logger.warn({ aggregate, failed: event.failed }, "days that cannot be computed");
}

const knownMethods = new Set(["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]);

function methodOf(req: Request): string {
  return knownMethods.has(req.method) ? req.method : "other";
}

/** Unknown paths are one route: a label per path would let any client fill the memory. */
function routeOf(req: Request): string {
  const route = req.route as { path?: unknown } | undefined;
  return typeof route?.path === "string" ? route.path : "other";
}

function detailOf(event: IdempotencyEvent): string {
  if ("code" in event) return event.code;
  if ("guarantee" in event) return event.guarantee;
  if ("during" in event) return event.during;
  return "weakness" in event ? event.weakness : "";
}
