/**
 * oncekey: an Idempotency-Key middleware that makes a retried write harmless. This entry imports no driver.
 */
import type { ServerResponse } from "node:http";
import type { Request as ExpressRequest } from "express";
import type { StepsHandler, StepsOptions } from "./core/attempt.js";
import type { IdempotencyOptions, RouteOptions, TransactionRouteOptions } from "./core/options.js";
import { plainMiddleware, stepsMiddleware, transactionMiddleware } from "./http/express.js";
import type { HttpRequest, TransactionHandler } from "./http/adapter.js";
import type { Idempotency } from "./http/express.js";
import { createInstance, demand } from "./instance.js";

export type {
  CallContext,
  CallOptions,
  Reconciled,
  Steps,
  StepsHandler,
  StepsOptions,
  StepsReply,
  StepsRequest,
} from "./core/attempt.js";
export { errorTable, isIdempotencyError } from "./core/errors.js";
export type { ErrorCode, IdempotencyError } from "./core/errors.js";
export type { IdempotencyEvent } from "./core/events.js";
export type { Secret } from "./core/fingerprint.js";
export type { IdempotencyOptions, RouteOptions, TransactionRouteOptions } from "./core/options.js";
export type { Operations, Settler } from "./core/operations-port.js";
export type { Reconcile, UnknownRequest } from "./core/reconcile.js";
export type { KeyRecord, KeyRef, Observation, StoredResponse, Windows } from "./core/record.js";
export type { Cache, Store } from "./core/ports.js";
export type { Isolation, SqlSession, TransactionAdapter } from "./core/sql-session.js";
export type { IdempotencyContext } from "./http/context.js";
export type { HttpRequest, Middleware, NextFunction, TransactionHandler } from "./http/adapter.js";
export type { Idempotency } from "./http/express.js";
export { renderError } from "./http/problem.js";
export { verifyContentDigest } from "./http/digest-stream.js";
export { keepRawBody } from "./http/request.js";

type AnyHandler = TransactionHandler<HttpRequest, ServerResponse, unknown>;

/**
 * Makes the middleware. One instance serves all routes of a process.
 *
 * For one (scope, key) the effect happens at most once, and every response after the first stored one is the same, whatever
 * crashes, as docs/guarantees.md says route by route.
 *
 * @throws `options_invalid` that lists every problem at once.
 */
export function createIdempotency<Request extends HttpRequest = ExpressRequest>(
  given: IdempotencyOptions<Request>,
): Idempotency {
  // The stack hands the middleware whatever requests it makes; what scope() expects of them is the caller's to know.
  const instance = createInstance(given as unknown as IdempotencyOptions<HttpRequest>);
  const { context, verbs } = instance;

  function idempotent(route?: RouteOptions) {
    return plainMiddleware(context, route);
  }
  function transaction(first: TransactionRouteOptions<unknown> | AnyHandler, second?: AnyHandler) {
    const [route, handler] = typeof first === "function" ? [{}, first] : [first, second];
    demand(typeof handler === "function", "idempotent.transaction needs a handler (req, res, tx).");
    instance.demandTransactions();
    return transactionMiddleware(context, route, handler);
  }
  function steps(
    name: string,
    first: (RouteOptions & StepsOptions) | StepsHandler,
    second?: StepsHandler,
  ) {
    const [route, handler] = typeof first === "function" ? [{}, first] : [first, second];
    return stepsMiddleware(context, instance.addSteps(name, route, handler as StepsHandler));
  }
  return Object.assign(idempotent, {
    transaction: transaction as unknown as Idempotency["transaction"],
    steps,
    ...verbs,
  });
}
