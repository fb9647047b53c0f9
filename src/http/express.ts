/**
 * The middleware for Express 4 and 5, and for any stack of (req, res, next). Owns: translating between Node's request and
 * response and the engine. Holds no policy.
 */
import type { ServerResponse } from "node:http";
import type { Request as ExpressRequest, Response as ExpressResponse } from "express";
import type { PoolClient } from "pg";
import type { StepsHandler, StepsOptions } from "../core/attempt.js";
import { isReady, whenReady } from "../core/awaitable.js";
import type { Awaitable } from "../core/awaitable.js";
import { resolveRoute, resolveTransactionRoute } from "../core/options.js";
import type { RouteOptions, TransactionRouteOptions } from "../core/options.js";
import { fail, isUnprotected, sendAnswer, sendOutcome } from "./adapter.js";
import type {
  HttpRequest,
  Middleware,
  NextFunction,
  NodeContext,
  TransactionHandler,
} from "./adapter.js";
import type { Answer } from "./answer.js";
import type { InstanceVerbs } from "./context.js";
import { tabulateRequest } from "./hidden-class.js";
import { keyedReader, keyMaker } from "./keyed.js";
import { runPlain } from "./plain.js";
import { NodeView, pathOf } from "./request.js";
import { answerSteps } from "./steps.js";
import type { HttpStepsRoute, RoutedRequest } from "./steps.js";
import { runTransaction } from "./transaction.js";
import { nestedError } from "./transaction-work.js";

/** What {@link createIdempotency} returns: call it for a plain route. */
export interface Idempotency extends InstanceVerbs {
  /** Middleware for a plain route: at most once, replayed afterwards. */
  <Req extends HttpRequest = ExpressRequest>(
    route?: RouteOptions<Req>,
  ): Middleware<HttpRequest, ServerResponse>;
  /** A whole handler: exactly once for what is written through `tx`. */
  transaction<
    Req extends HttpRequest = ExpressRequest,
    Res extends ServerResponse = ExpressResponse,
  >(
    handler: TransactionHandler<Req, Res>,
  ): Middleware<Req, Res>;
  transaction<
    Req extends HttpRequest = ExpressRequest,
    Res extends ServerResponse = ExpressResponse,
    Tx = PoolClient,
  >(
    route: TransactionRouteOptions<Tx, Req>,
    handler: TransactionHandler<Req, Res, Tx>,
  ): Middleware<Req, Res>;
  /**
   * A whole handler that continues at its last recovery point after a crash, here or in another process. Register a route of
   * the same name in every process, before it serves.
   */
  steps<Tx = PoolClient>(
    name: string,
    handler: StepsHandler<Tx>,
  ): Middleware<HttpRequest, ServerResponse>;
  steps<Tx = PoolClient, Req extends HttpRequest = ExpressRequest>(
    name: string,
    route: RouteOptions<Req> & StepsOptions,
    handler: StepsHandler<Tx>,
  ): Middleware<HttpRequest, ServerResponse>;
}

/** The middleware of a plain route. */
export function plainMiddleware(
  context: NodeContext,
  given?: RouteOptions,
): Middleware<HttpRequest, ServerResponse> {
  const readKeyed = keyedReader(context, resolveRoute(context.options.route, given));
  const begin = (req: HttpRequest, res: ServerResponse, next: NextFunction): Awaitable<void> =>
    whenReady(readKeyed(req, new NodeView(req, res)), (keyed) => {
      if (keyed === undefined || isUnprotected(context, keyed, req, res)) return next();
      return whenReady(context.engine.begin(keyed.request), (begun) => {
        if (begun.kind === "run") runPlain(context, keyed, begun.run, { req, res, next });
        else sendOutcome(context, keyed, begun, res);
      });
    });
  return (req, res, next) => {
    // Mounted for the whole app and again on the route: the outer one holds the claim.
    if (req.idempotency !== undefined) {
      next();
      return;
    }
    tabulateRequest(req);
    try {
      const begun = begin(req, res, next);
      if (!isReady(begun))
        begun.then(undefined, (error: unknown) => fail(context, error, res, next));
    } catch (error) {
      fail(context, error, res, next);
    }
  };
}

/** The handler of a transaction route. */
export function transactionMiddleware<Req extends HttpRequest, Res extends ServerResponse, Tx>(
  context: NodeContext,
  given: TransactionRouteOptions<Tx>,
  handler: TransactionHandler<Req, Res, Tx>,
): Middleware<Req, Res> {
  const { route, using } = resolveTransactionRoute(context.options.route, given);
  const readKeyed = keyedReader(context, route);
  // What `using` opens is what the handler takes: their types say so to whoever calls this.
  const anyHandler = handler as TransactionHandler<Req, Res, unknown>;
  return (req, res, next) => {
    tabulateRequest(req);
    const run = async (): Promise<void> => {
      if (req.idempotency !== undefined) throw nestedError();
      const read = await readKeyed(req, new NodeView(req, res));
      const keyed = read === undefined || isUnprotected(context, read, req, res) ? undefined : read;
      const answer = (told: Answer): void => sendAnswer(res, told);
      const call = { keyed, route, using, handler: anyHandler, req, res, next, answer };
      await runTransaction(context, call);
    };
    run().catch((error: unknown) => fail(context, error, res, next));
  };
}

/** The handler of a steps route. */
export function stepsMiddleware(
  context: NodeContext,
  route: HttpStepsRoute,
): Middleware<HttpRequest, ServerResponse> {
  const readKeyed = keyMaker(context, route.route);
  return (req, res, next) => {
    tabulateRequest(req);
    const run = async (): Promise<void> => {
      if (req.idempotency !== undefined) throw nestedError();
      const keyed = await readKeyed(req, new NodeView(req, res));
      sendAnswer(res, await answerSteps(context, keyed, route, routedOf(req)));
    };
    run().catch((error: unknown) => fail(context, error, res, next));
  };
}

/** Routers and parsers add these; in a stack without them they are missing. */
function routedOf(req: HttpRequest): RoutedRequest {
  const { params = {}, query = {}, body } = req as unknown as Partial<RoutedRequest>;
  return { headers: req.headers, path: pathOf(req), params, query, body };
}
