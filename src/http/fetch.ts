/**
 * The adapter for web-standard handlers, Request to Response: plain functions, Next.js, Bun, Deno and Hono. Owns: when a
 * handler runs, and who hears of an error. Holds no policy.
 */
import type { PoolClient } from "pg";
import { isIdempotencyError } from "../core/errors.js";
import { resolveRoute, resolveTransactionRoute } from "../core/options.js";
import type { RouteOptions, TransactionRouteOptions } from "../core/options.js";
import { isForClient, outcomeAnswer, refusal, unprotectedHeaders } from "./answer.js";
import type { Answer } from "./answer.js";
import { whenUnprotected } from "./context.js";
import type { AdapterContext, Keyed } from "./context.js";
import { OpenExchange } from "./fetch-exchange.js";
import type { Exchange, Idempotent } from "./fetch-exchange.js";
import { runInTime, runPlain } from "./fetch-plain.js";
import { answerResponse, withHeaders } from "./fetch-response.js";
import { runTransaction } from "./fetch-transaction.js";
import { keyedReader, keyMaker } from "./keyed.js";
import { answerSteps } from "./steps.js";
import type { HttpStepsRoute } from "./steps.js";
import { nestedError } from "./transaction-work.js";

/** What a handler returns. */
export type Reply = Response | Promise<Response>;

/** A handler of a plain route: what the framework gives it, and `request.idempotency`. */
export type FetchHandler<Req extends Request, Rest extends readonly unknown[]> = (
  request: Idempotent<Req>,
  ...rest: Rest
) => Reply;

/** Writes through `tx` and returns its response; both are durable together or not at all. */
export type FetchTransactionHandler<
  Req extends Request,
  Rest extends readonly unknown[],
  Tx = PoolClient,
> = (request: Idempotent<Req>, tx: Tx, ...rest: Rest) => Reply;

/** What the routes of an instance share. */
export interface FetchParts {
  readonly context: AdapterContext<Request>;
  readonly maxRequestBytes: number;
  readonly onError:
    ((error: unknown, request: Request, ...rest: readonly unknown[]) => unknown) | undefined;
}

/** Carries an exchange to its response; `handle` runs what stands behind. */
export type Route<Given extends readonly unknown[] = []> = (
  exchange: Exchange,
  handle: (...given: Given) => unknown,
) => Promise<Response>;

/** What holds a claim now. Mounted for the whole app and again on the route, the outer one holds it. */
const holders = new WeakSet<object>();

/** A plain route. */
export function plainRoute(parts: FetchParts, given?: RouteOptions): Route {
  const { context, onError, maxRequestBytes } = parts;
  const readKeyed = keyedReader(context, resolveRoute(context.options.route, given));
  return async (exchange, handle) => {
    const { request, rest, holder } = exchange;
    if (holders.has(holder)) return handle() as Reply;
    const open = new OpenExchange(exchange, maxRequestBytes);
    const read = await orRefusal(context, open, async () => readKeyed(request, open.view()));
    if (read instanceof Refused) return read.response;
    if (read === undefined) return handle() as Reply;
    const unprotected = whenUnprotected(context.options, read);
    if (unprotected !== undefined) {
      open.attach(unprotected.handle);
      return withHeaders((await handle()) as Response, unprotectedHeaders(read));
    }
    const begun = await context.engine.begin(read.request);
    if (begun.kind !== "run")
      return answerResponse(outcomeAnswer(context, read, begun), open.headersBefore());
    const call = {
      context,
      keyed: read,
      exchange: open,
      handle,
      onError:
        onError === undefined ? undefined : (error: unknown) => onError(error, request, ...rest),
    };
    return runInTime(
      call,
      holding(holder, () => runPlain(call, begun.run)),
    );
  };
}

/** A transaction route; `handle` is given the transaction. */
export function transactionRoute(
  { context, maxRequestBytes }: FetchParts,
  given: TransactionRouteOptions<unknown>,
): Route<[tx: unknown]> {
  const { route, using } = resolveTransactionRoute(context.options.route, given);
  const readKeyed = keyedReader(context, route);
  return async (exchange, handle) => {
    const { request, holder } = exchange;
    if (holders.has(holder)) throw nestedError();
    const open = new OpenExchange(exchange, maxRequestBytes);
    const read = await orRefusal(context, open, async () => {
      const keyed = await readKeyed(request, open.view());
      // A handler that is run again reads its body again, also without a key.
      await open.readBody();
      return keyed;
    });
    if (read instanceof Refused) return read.response;
    const unprotected = read && whenUnprotected(context.options, read);
    if (unprotected !== undefined) open.attach(unprotected.handle);
    const keyed = unprotected === undefined ? read : undefined;
    const call = { context, keyed, route, using, exchange: open, handle };
    const response = await holding(holder, () => runTransaction(call));
    return read === undefined || unprotected === undefined
      ? response
      : withHeaders(response, unprotectedHeaders(read));
  };
}

/** A steps route. Nothing stands behind it: its handler may run without any request. */
export function stepsRoute({ context, maxRequestBytes }: FetchParts, route: HttpStepsRoute): Route {
  const readKeyed = keyMaker(context, route.route);
  return async (exchange) => {
    const { request, holder } = exchange;
    if (holders.has(holder)) throw nestedError();
    const open = new OpenExchange(exchange, maxRequestBytes);
    const read = await orRefusal(context, open, async (): Promise<[Keyed, Answer]> => {
      const keyed = await readKeyed(request, open.view());
      return [keyed, await answerSteps(context, keyed, route, await open.routed())];
    });
    if (read instanceof Refused) return read.response;
    return answerResponse(read[1], open.headersBefore());
  };
}

async function holding<Value>(holder: object, work: () => Promise<Value>): Promise<Value> {
  holders.add(holder);
  try {
    return await work();
  } finally {
    holders.delete(holder);
  }
}

/** A refusal that takes the place of the handler. */
class Refused {
  constructor(readonly response: Response) {}
}

/** A refusal is sent as the dialect says; a set-up error is thrown to the framework, where somebody reads it. */
async function orRefusal<Value>(
  context: AdapterContext<Request>,
  exchange: OpenExchange,
  read: () => Promise<Value>,
): Promise<Value | Refused> {
  try {
    return await read();
  } catch (error) {
    if (!isIdempotencyError(error) || !isForClient(error)) throw error;
    return new Refused(
      answerResponse(refusal(context, undefined, error), exchange.headersBefore()),
    );
  }
}
