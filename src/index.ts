/**
 * oncekey: an Idempotency-Key middleware that makes a retried write harmless. This entry imports no driver.
 */
import type { ServerResponse } from "node:http";
import type { Request as ExpressRequest } from "express";
import type { StepsHandler, StepsOptions } from "./core/attempt.js";
import { systemClock } from "./core/clock.js";
import { Engine } from "./core/engine.js";
import { IdempotencyError } from "./core/errors.js";
import { resolveOptions, resolveSteps } from "./core/options.js";
import type { IdempotencyOptions, RouteOptions, TransactionRouteOptions } from "./core/options.js";
import type { StepsRoute } from "./core/steps-run.js";
import { isCacheable } from "./core/ports.js";
import type { Store } from "./core/ports.js";
import type { KeyRef } from "./core/record.js";
import { plainMiddleware, stepsMiddleware, transactionMiddleware } from "./http/express.js";
import type { HttpRequest, NodeContext, TransactionHandler } from "./http/adapter.js";
import type { Idempotency } from "./http/express.js";
import { createStepsRoute } from "./steps/route.js";
import { tiered } from "./stores/tiered.js";
import { startBackground } from "./workers/background.js";

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
export { keepRawBody } from "./http/request.js";

const defaultGraceMs = 30_000;

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
  const options = resolveOptions(given as unknown as IdempotencyOptions<HttpRequest>);
  const clock = systemClock;
  const store = withCache(options.store, options.cache);
  const engine = new Engine({ ...options, store, clock });
  const context: NodeContext = { engine, clock, options };

  const stepsRoutes = new Map<string, StepsRoute>();
  const background = options.workers
    ? startBackground({
        store,
        clock,
        onEvent: options.onEvent,
        claimDue: (most) => engine.claimDue(stepsRoutes, most),
      })
    : undefined;

  function idempotent(route?: RouteOptions) {
    return plainMiddleware(context, route);
  }
  function transaction(first: TransactionRouteOptions<unknown> | AnyHandler, second?: AnyHandler) {
    const [route, handler] = typeof first === "function" ? [{}, first] : [first, second];
    demand(typeof handler === "function", "idempotent.transaction needs a handler (req, res, tx).");
    demand(store.transactions !== undefined, `Transaction routes ${needsPostgres}`);
    return transactionMiddleware(context, route, handler);
  }
  function steps(
    name: string,
    first: (RouteOptions & StepsOptions) | StepsHandler,
    second?: StepsHandler,
  ) {
    const [routeOptions, handler] = typeof first === "function" ? [{}, first] : [first, second];
    demand(typeof name === "string" && name !== "", "idempotent.steps needs a name.");
    demand(typeof handler === "function", "idempotent.steps needs a handler (request, steps).");
    demand(!stepsRoutes.has(name), `Two steps routes are called ${name}.`);
    const source = store.steps;
    demand(source !== undefined, `Steps routes ${needsPostgres}`);
    const { route, steps: stepsOptions } = resolveSteps(options.route, routeOptions);
    const input = { name, handler, route, options: stepsOptions, source, clock };
    const stepsRoute = createStepsRoute(input);
    stepsRoutes.set(name, stepsRoute);
    background?.startCompleter();
    return stepsMiddleware(context, stepsRoute);
  }
  return Object.assign(idempotent, {
    transaction: transaction as unknown as Idempotency["transaction"],
    steps,
    find: (ref: KeyRef) => store.find(ref),
    operations: store.operations,
    check: () => store.check(),
    close: async ({ graceMs = defaultGraceMs }: { readonly graceMs?: number } = {}) => {
      const stopped = background?.stop();
      await engine.close(graceMs);
      await stopped;
    },
  });
}

const needsPostgres = "need a store such as postgresStore({ pool }).";

function demand(condition: boolean, detail: string): asserts condition {
  if (!condition) throw new IdempotencyError("options_invalid", { detail });
}

function withCache(store: Store, cache: IdempotencyOptions<never>["cache"]): Store {
  if (cache === undefined) return store;
  if (isCacheable(store)) return tiered(store, cache, systemClock);
  throw new IdempotencyError("options_invalid", {
    detail: "cache: this store cannot have a cache in front of it.",
  });
}
