/**
 * oncekey: an Idempotency-Key middleware that makes a retried write harmless. This entry imports no driver.
 */
import type { ServerResponse } from "node:http";
import { systemClock } from "./core/clock.js";
import { Engine } from "./core/engine.js";
import { IdempotencyError } from "./core/errors.js";
import { resolveOptions } from "./core/options.js";
import type { IdempotencyOptions, RouteOptions } from "./core/options.js";
import { isCacheable } from "./core/ports.js";
import type { Store } from "./core/ports.js";
import { plainMiddleware, transactionMiddleware } from "./http/express.js";
import type { AdapterContext, HttpRequest, TransactionHandler } from "./http/adapter.js";
import type { Idempotency } from "./http/express.js";
import { tiered } from "./stores/tiered.js";

export { errorTable, isIdempotencyError } from "./core/errors.js";
export type { ErrorCode, IdempotencyError } from "./core/errors.js";
export type { IdempotencyEvent } from "./core/events.js";
export type { Secret } from "./core/fingerprint.js";
export type { IdempotencyOptions, RouteOptions } from "./core/options.js";
export type { Cache, Store } from "./core/ports.js";
export type {
  HttpRequest,
  IdempotencyContext,
  Middleware,
  NextFunction,
  TransactionHandler,
} from "./http/adapter.js";
export type { Idempotency } from "./http/express.js";
export { keepRawBody } from "./http/request.js";

const defaultGraceMs = 30_000;

type AnyHandler = TransactionHandler<HttpRequest, ServerResponse>;

/**
 * Makes the middleware. One instance serves all routes of a process.
 *
 * For one (scope, key) the effect happens at most once, and every response after the first stored one is the same, whatever
 * crashes, as docs/guarantees.md says route by route.
 *
 * @throws `options_invalid` that lists every problem at once.
 */
export function createIdempotency<Request extends HttpRequest = HttpRequest>(
  given: IdempotencyOptions<Request>,
): Idempotency {
  // The stack hands the middleware whatever requests it makes; what scope() expects of them is the caller's to know.
  const options = resolveOptions(given as unknown as IdempotencyOptions<HttpRequest>);
  const clock = systemClock;
  const store = withCache(options.store, options.cache);
  const engine = new Engine({ ...options, store, clock });
  const context: AdapterContext = { engine, clock, options };

  function idempotent(route?: RouteOptions) {
    return plainMiddleware(context, route);
  }
  function transaction(first: RouteOptions | AnyHandler, second?: AnyHandler) {
    const [route, handler] = typeof first === "function" ? [{}, first] : [first, second];
    if (typeof handler !== "function") {
      throw new IdempotencyError("options_invalid", {
        detail: "idempotent.transaction needs a handler (req, res, tx).",
      });
    }
    if (store.transactions === undefined) {
      throw new IdempotencyError("options_invalid", {
        detail:
          "Transaction routes need a store with transactions, such as postgresStore({ pool }).",
      });
    }
    return transactionMiddleware(context, route, handler);
  }
  return Object.assign(idempotent, {
    transaction: transaction as unknown as Idempotency["transaction"],
    check: () => store.check(),
    close: ({ graceMs = defaultGraceMs }: { readonly graceMs?: number } = {}) =>
      engine.close(graceMs),
  });
}

function withCache(store: Store, cache: IdempotencyOptions<never>["cache"]): Store {
  if (cache === undefined) return store;
  if (isCacheable(store)) return tiered(store, cache, systemClock);
  throw new IdempotencyError("options_invalid", {
    detail: "cache: this store cannot have a cache in front of it.",
  });
}
