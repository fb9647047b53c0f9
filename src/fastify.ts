/**
 * oncekey/fastify: the plugin for Fastify 5. Owns: the decorators and hooks of one instance in the context that registers it. This
 * entry imports no driver and no framework.
 */
import type {
  FastifyInstance,
  FastifyPluginAsync,
  FastifyRequest,
  RouteGenericInterface,
  RouteOptions as FastifyRouteOptions,
} from "fastify";
import type { PoolClient } from "pg";
import type { StepsHandler, StepsOptions } from "./core/attempt.js";
import { IdempotencyError } from "./core/errors.js";
import type { IdempotencyOptions, RouteOptions, TransactionRouteOptions } from "./core/options.js";
import type { InstanceVerbs } from "./http/context.js";
import { noHttp2, plainHandler, stepsHandler, transactionHandler } from "./http/fastify.js";
import type { FastifyContext, FastifyHandler, FastifyTransactionHandler } from "./http/fastify.js";
import { createInstance, demand } from "./instance.js";
import type { Instance } from "./instance.js";

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
export type { IdempotencyOptions, RouteOptions, TransactionRouteOptions } from "./core/options.js";
export type { IdempotencyContext } from "./http/context.js";
export type { FastifyHandler, FastifyTransactionHandler } from "./http/fastify.js";

/** What the plugin decorates its context with, as `app.idempotent`. */
export interface FastifyIdempotency extends InstanceVerbs {
  /** Makes a handler a plain route: at most once, replayed afterwards. As `config: { idempotency: true }` on the route does. */
  <Route extends RouteGenericInterface = RouteGenericInterface>(
    handler: FastifyHandler<Route>,
  ): FastifyHandler<Route>;
  <Route extends RouteGenericInterface = RouteGenericInterface>(
    route: RouteOptions<FastifyRequest>,
    handler: FastifyHandler<Route>,
  ): FastifyHandler<Route>;
  /** Makes a handler a transaction route: exactly once for what is written through `tx`. */
  transaction<Route extends RouteGenericInterface = RouteGenericInterface>(
    handler: FastifyTransactionHandler<PoolClient, Route>,
  ): FastifyHandler<Route>;
  transaction<Route extends RouteGenericInterface = RouteGenericInterface, Tx = PoolClient>(
    route: TransactionRouteOptions<Tx, FastifyRequest>,
    handler: FastifyTransactionHandler<Tx, Route>,
  ): FastifyHandler<Route>;
  /**
   * A whole handler that continues at its last recovery point after a crash, here or in another process. Register a route of
   * the same name in every process, before it serves.
   */
  steps<Tx = PoolClient>(name: string, handler: StepsHandler<Tx>): FastifyHandler;
  steps<Tx = PoolClient>(
    name: string,
    route: RouteOptions<FastifyRequest> & StepsOptions,
    handler: StepsHandler<Tx>,
  ): FastifyHandler;
}

declare module "fastify" {
  interface FastifyInstance {
    idempotent: FastifyIdempotency;
  }
}

/**
 * The plugin: `await app.register(oncekey, { store, scope })`. In the context that registers it, and in those below, it protects
 * the routes that say `config: { idempotency: true }` (or route options in place of `true`) and gives `app.idempotent`. Routes of
 * other contexts are left alone; a context below may register an instance of its own.
 *
 * For one (scope, key) the effect happens at most once, and every response after the first stored one is the same, whatever
 * crashes, as docs/guarantees.md says route by route. Closing the app drains what runs.
 *
 * @throws `options_invalid` that lists every problem at once, and for an http2 server.
 */
export const oncekey: FastifyPluginAsync<IdempotencyOptions<FastifyRequest>> = Object.assign(
  async (app: FastifyInstance, given: IdempotencyOptions<FastifyRequest>): Promise<void> => {
    demand(app.initialConfig.http2 !== true, noHttp2);
    const instance = createInstance(given);
    const { context, verbs } = instance;
    if (!app.hasRequestDecorator("idempotency")) app.decorateRequest("idempotency", undefined);
    app.decorate("idempotent", Object.assign(makerOf(instance), verbs) as FastifyIdempotency);
    app.addHook("onRoute", (route) => protect(context, route));
    app.addHook("preHandler", (request, _reply, done) => {
      demandProtection(request);
      done();
    });
    app.addHook("onClose", async () => verbs.close());
  },
  {
    // What fastify-plugin does: decorators and hooks belong to the context that registers this.
    [Symbol.for("skip-override")]: true,
    [Symbol.for("fastify.display-name")]: "oncekey",
    [Symbol.for("plugin-meta")]: { name: "oncekey", fastify: "5.x" },
  },
);

type AnyTransactionHandler = FastifyTransactionHandler<unknown>;

function makerOf(instance: Instance<FastifyRequest>) {
  const { context } = instance;
  function idempotent(
    first: RouteOptions<FastifyRequest> | FastifyHandler,
    second?: FastifyHandler,
  ) {
    const [route, handler] = typeof first === "function" ? [{}, first] : [first, second];
    demand(typeof handler === "function", "app.idempotent needs a handler (request, reply).");
    const made = plainHandler(context, route, handler);
    return remember(made, made);
  }
  function transaction(
    first: TransactionRouteOptions<unknown, FastifyRequest> | AnyTransactionHandler,
    second?: AnyTransactionHandler,
  ) {
    const [route, handler] = typeof first === "function" ? [{}, first] : [first, second];
    const needed = "app.idempotent.transaction needs a handler (request, reply, tx).";
    demand(typeof handler === "function", needed);
    instance.demandTransactions();
    return transactionHandler(context, route, handler);
  }
  function steps(
    name: string,
    first: (RouteOptions<FastifyRequest> & StepsOptions) | StepsHandler,
    second?: StepsHandler,
  ) {
    const [route, handler] = typeof first === "function" ? [{}, first] : [first, second];
    return stepsHandler(context, instance.addSteps(name, route, handler as StepsHandler));
  }
  return Object.assign(idempotent, { transaction, steps });
}

/** The handlers that stand under a claim, with what the plugin of a nearer context is to protect in their place. */
const protectedHandlers = new WeakMap<object, FastifyHandler>();

function remember(handler: FastifyHandler, made: FastifyHandler): FastifyHandler {
  protectedHandlers.set(made, handler);
  return made;
}

/** Tells, on a route's config, that its handler stands under a claim: Fastify hands out handlers only in a wrapping of its own. */
const isProtected = Symbol("oncekey.isProtected");

/** The plugin of the nearest context protects a route; hooks of outer ones have run before. */
function protect(context: FastifyContext, route: FastifyRouteOptions): void {
  const asked = route.config?.idempotency;
  if (asked === undefined || asked === false) return;
  const given = route.handler as FastifyHandler;
  const handler = protectedHandlers.get(given) ?? given;
  const made = plainHandler(context, asked === true ? {} : asked, handler);
  route.handler = remember(handler, made);
  route.config = Object.assign({ ...route.config }, { [isProtected]: true });
}

/** A route that was declared before this plugin was loaded has missed its hook, and nothing else would tell. */
function demandProtection(request: FastifyRequest): void {
  const { config, url } = request.routeOptions;
  if (config.idempotency === undefined || config.idempotency === false) return;
  if (Object.hasOwn(config, isProtected)) return;
  throw new IdempotencyError("options_invalid", {
    detail: `${url ?? "A route"} was declared before oncekey/fastify was loaded. Write "await app.register(oncekey, options)" above it.`,
  });
}
