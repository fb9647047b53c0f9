/**
 * oncekey/fetch: the same guarantees for handlers that take a web-standard Request and return a Response: plain functions,
 * Next.js routes, Bun, Deno, and Hono. This entry imports no driver and no framework.
 */
import type { PoolClient } from "pg";
import { z } from "zod";
import type { StepsHandler, StepsOptions } from "./core/attempt.js";
import { IdempotencyError } from "./core/errors.js";
import type { IdempotencyOptions, RouteOptions, TransactionRouteOptions } from "./core/options.js";
import { shapeProblems } from "./core/options-shape.js";
import type { InstanceVerbs } from "./http/context.js";
import { plainRoute, stepsRoute, transactionRoute } from "./http/fetch.js";
import type {
  FetchHandler,
  FetchParts,
  FetchTransactionHandler,
  Reply,
  Route,
} from "./http/fetch.js";
import { functionExchange, restOf } from "./http/fetch-exchange.js";
import { honoHandler, honoMiddleware } from "./http/fetch-hono.js";
import type { HonoContext, HonoIdempotency } from "./http/fetch-hono.js";
import { createInstance, demand } from "./instance.js";

export { isIdempotencyError } from "./core/errors.js";
export type { IdempotencyContext } from "./http/context.js";
export type { FetchHandler, FetchTransactionHandler } from "./http/fetch.js";
export type { Idempotent, IdempotencyOfRequest } from "./http/fetch-exchange.js";
export type {
  HonoContext,
  HonoIdempotency,
  HonoMiddleware,
  IdempotencyVariables,
} from "./http/fetch-hono.js";

/** Options of {@link idempotentFetch}: those of `createIdempotency`, and what only web-standard handlers need. */
export interface FetchOptions extends Omit<IdempotencyOptions<Request>, "scope" | "requestId"> {
  /**
   * Whose key it is: tenant and environment, from the authenticated request, never the route. It is given what the handler is
   * given beside the request too: Hono's context, the second argument of a Next.js route. Required; a string of 1 to 255
   * characters. `"global"` for an API with one tenant.
   */
  readonly scope: "global" | ((request: Request, ...rest: never[]) => string | Promise<string>);
  /** The request's id, for `Original-Request`. Default: Hono's `requestId` or the X-Request-Id header, else a new one. */
  readonly requestId?: (request: Request, ...rest: never[]) => string;
  /**
   * Largest body of a request with a key, and of any request to a transaction route, in bytes: it is held in memory to be
   * compared. A larger one is answered 413 `request_too_large`. Default 1 MiB.
   */
  readonly maxRequestBytes?: number;
  /**
   * Renders what the handler of a plain route throws; the response is stored and replayed, as any other. Not asked in Hono,
   * whose own `onError` renders, nor for transaction routes, which roll back and throw. Default: the error is written to the
   * console, and the response is a plain 500.
   */
  readonly onError?: (error: unknown, request: Request, ...rest: never[]) => Reply;
}

/** What {@link idempotentFetch} returns: call it with the handler of a plain route. */
export interface FetchIdempotency extends InstanceVerbs {
  /** A plain route: at most once, replayed afterwards. */
  <Req extends Request, Rest extends readonly unknown[]>(
    handler: FetchHandler<Req, Rest>,
  ): (request: Req, ...rest: Rest) => Promise<Response>;
  <Req extends Request, Rest extends readonly unknown[]>(
    route: RouteOptions<Request>,
    handler: FetchHandler<Req, Rest>,
  ): (request: Req, ...rest: Rest) => Promise<Response>;
  /** Exactly once for what is written through `tx`. What the handler throws is thrown on, after everything was taken back. */
  transaction<Req extends Request, Rest extends readonly unknown[]>(
    handler: FetchTransactionHandler<Req, Rest>,
  ): (request: Req, ...rest: Rest) => Promise<Response>;
  transaction<Req extends Request, Rest extends readonly unknown[], Tx = PoolClient>(
    route: TransactionRouteOptions<Tx, Request>,
    handler: FetchTransactionHandler<Req, Rest, Tx>,
  ): (request: Req, ...rest: Rest) => Promise<Response>;
  /**
   * Continues at its last recovery point after a crash, here or in another process. Register a route of the same name in every
   * process, before it serves.
   */
  steps<Tx = PoolClient>(name: string, handler: StepsHandler<Tx>): StepsFunction;
  steps<Tx = PoolClient>(
    name: string,
    route: RouteOptions<Request> & StepsOptions,
    handler: StepsHandler<Tx>,
  ): StepsFunction;
  /** The same routes as middleware and handlers of Hono. */
  readonly hono: HonoIdempotency;
}

type StepsFunction = (request: Request, ...rest: unknown[]) => Promise<Response>;

const defaultMaxRequestBytes = 1_048_576;
/** What is held in memory for every request should end long before. */
const largestMaxRequestBytes = 64 * 1024 * 1024;

const ownShape = z.object({
  maxRequestBytes: z.number().int().min(0).max(largestMaxRequestBytes).optional(),
  onError: z
    .custom((value) => typeof value === "function", { error: "must be a function" })
    .optional(),
});

type AnyHandler = (...given: readonly unknown[]) => unknown;

/**
 * Makes the wrapper. One instance serves all routes of a process.
 *
 * For one (scope, key) the effect happens at most once, and every response after the first stored one is the same, whatever
 * crashes, as docs/guarantees.md says route by route. It needs `node:crypto` and `Buffer`: Node, Bun, Deno, and the Node.js
 * runtime of Next.js.
 *
 * @throws `options_invalid`
 */
export function idempotentFetch(given: FetchOptions): FetchIdempotency {
  const parts = readOptions(given);
  const { instance, ...shared } = parts;

  const transaction = <Given>(first: unknown, second: unknown): [Route<[unknown]>, Given] => {
    const [route, handler] = optional<TransactionRouteOptions<unknown>>(first, second);
    demand(handler !== undefined, "idempotent.transaction needs a handler.");
    instance.demandTransactions();
    return [transactionRoute(shared, route ?? {}), handler as Given];
  };
  const steps = (name: string, first: unknown, second: unknown): Route => {
    const [route, handler] = optional<RouteOptions & StepsOptions>(first, second);
    return stepsRoute(shared, instance.addSteps(name, route ?? {}, handler as StepsHandler));
  };

  function idempotent(first: unknown, second?: unknown) {
    const [options, handler] = optional<RouteOptions>(first, second);
    demand(handler !== undefined, "idempotent needs a handler (request, ...rest).");
    const route = plainRoute(shared, options);
    return (request: Request, ...rest: readonly unknown[]) =>
      route(functionExchange(request, rest), () => handler(request, ...rest));
  }
  const ofFunctions = {
    transaction: (first: unknown, second?: unknown) => {
      const [route, handler] = transaction<AnyHandler>(first, second);
      return (request: Request, ...rest: readonly unknown[]) =>
        route(functionExchange(request, rest), (tx) => handler(request, tx, ...rest));
    },
    steps: (name: string, first: unknown, second?: unknown): StepsFunction => {
      const route = steps(name, first, second);
      return (request, ...rest) => route(functionExchange(request, rest), () => undefined);
    },
  };
  const ofHono = {
    transaction: (first: unknown, second?: unknown) => {
      const [route, handler] = transaction<(c: HonoContext, tx: unknown) => Reply>(first, second);
      return honoHandler(route, handler);
    },
    steps: (name: string, first: unknown, second?: unknown) =>
      honoHandler(steps(name, first, second), () => undefined),
  };
  const middleware = (route?: RouteOptions<Request>) => {
    // Hono has one response per context, and would drop the one of a handler that goes on.
    demand(
      (route?.handlerTimeoutMs ?? instance.context.options.route.handlerTimeoutMs) === 0,
      "handlerTimeoutMs: Hono cannot answer beside a handler that goes on.",
    );
    return honoMiddleware(plainRoute(shared, route));
  };
  const hono = Object.assign(middleware, ofHono);
  return Object.assign(idempotent, {
    ...ofFunctions,
    hono,
    ...instance.verbs,
  });
}

/** Options may stand in front of a handler. */
function optional<Options>(
  first: unknown,
  second: unknown,
): [Options | undefined, AnyHandler | undefined] {
  if (typeof first === "function") return [undefined, first as AnyHandler];
  return [
    (first ?? undefined) as Options | undefined,
    typeof second === "function" ? (second as AnyHandler) : undefined,
  ];
}

function readOptions(
  given: FetchOptions,
): FetchParts & { readonly instance: ReturnType<typeof createInstance<Request>> } {
  const {
    maxRequestBytes = defaultMaxRequestBytes,
    onError,
    scope,
    requestId,
    ...rest
  } = given ?? {};
  const problems = shapeProblems(ownShape, { maxRequestBytes, onError });
  if (problems.length > 0)
    throw new IdempotencyError("options_invalid", {
      detail: `Options of idempotentFetch: ${problems.join("; ")}.`,
    });
  const instance = createInstance<Request>({
    ...rest,
    scope: withRest(scope),
    ...(requestId === undefined ? {} : { requestId: withRest(requestId) }),
  });
  return {
    instance,
    context: instance.context,
    maxRequestBytes,
    onError: onError as FetchParts["onError"],
  };
}

/** What is no function is left as it is, for the validation to find. */
function withRest<Given>(given: Given): Given {
  if (typeof given !== "function") return given;
  const wrapped = (request: Request): unknown =>
    Reflect.apply(given, undefined, [request, ...restOf(request)]);
  return wrapped as unknown as Given;
}
