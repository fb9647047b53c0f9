/**
 * The handlers of protected routes on Fastify 5. Owns: translating between Fastify's request and reply and the engine. The claim is
 * made by the handler, behind all hooks that come before it: what they and the validation turn away leaves no key. Holds no policy.
 */
import type { FastifyInstance, FastifyReply, FastifyRequest, RouteGenericInterface } from "fastify";
import { IdempotencyError, isIdempotencyError } from "../core/errors.js";
import { resolveRoute, resolveTransactionRoute } from "../core/options.js";
import type {
  RouteOptions as ProtectedRouteOptions,
  TransactionRouteOptions,
} from "../core/options.js";
import type { PlainRun } from "../core/plain-run.js";
import { isForClient, outcomeAnswer, refusal, unprotectedHeaders } from "./answer.js";
import type { Answer } from "./answer.js";
import { whenUnprotected } from "./context.js";
import type { AdapterContext, IdempotencyContext, Keyed } from "./context.js";
import { callHandler, sendAnswer, showHeaders, takeReply } from "./fastify-reply.js";
import { routedOfFastify, viewOfFastify } from "./fastify-request.js";
import { keyedReader, keyMaker } from "./keyed.js";
import { runPlain } from "./plain.js";
import { answerSteps } from "./steps.js";
import type { HttpStepsRoute } from "./steps.js";
import { runTransaction } from "./transaction.js";

declare module "fastify" {
  interface FastifyRequest {
    /** The claim under which this handler runs; undefined where the request has no key. */
    idempotency?: IdempotencyContext | undefined;
  }
  interface FastifyContextConfig {
    /** Makes this a plain route under the idempotency plugin of its context. */
    idempotency?: boolean | ProtectedRouteOptions<FastifyRequest>;
  }
}

export type FastifyContext = AdapterContext<FastifyRequest>;

/** A route's handler, for `app.post(path, handler)`. */
export type FastifyHandler<Route extends RouteGenericInterface = RouteGenericInterface> = (
  this: FastifyInstance,
  request: FastifyRequest<Route>,
  reply: FastifyReply<Route>,
) => unknown;

/** Writes through `tx` and answers as any handler; both are durable together or not at all. */
export type FastifyTransactionHandler<
  Tx,
  Route extends RouteGenericInterface = RouteGenericInterface,
> = (
  this: FastifyInstance,
  request: FastifyRequest<Route>,
  reply: FastifyReply<Route>,
  tx: Tx,
) => unknown;

type Handler = FastifyHandler;

/** The handler of a plain route. */
export function plainHandler(
  context: FastifyContext,
  given: ProtectedRouteOptions<FastifyRequest> | undefined,
  handler: Handler,
): Handler {
  const readKeyed = keyedReader(context, resolveRoute(context.options.route, given));
  const begin = async (request: FastifyRequest, reply: FastifyReply): Promise<BegunPlain> => {
    const keyed = await readKeyed(request, viewOfFastify(request, reply));
    if (keyed === undefined || isUnprotected(context, keyed, request, reply))
      return { kind: "pass" };
    // What cannot be written must fail before there is a claim.
    showHeaders(reply);
    const begun = await context.engine.begin(keyed.request);
    if (begun.kind === "run") return { kind: "run", keyed, run: begun.run };
    return { kind: "answer", answer: outcomeAnswer(context, keyed, begun) };
  };
  return async function idempotentHandler(request, reply) {
    demandHttp1(request);
    const call = (): unknown => handler.call(this, request, reply);
    // Wrapped twice: the outer one holds the claim.
    if (request.idempotency !== undefined) return pass(reply, call);
    const begun = await orRefuse(context, () => begin(request, reply));
    switch (begun.kind) {
      case "pass":
        return pass(reply, call);
      case "answer":
        return sendAnswer(reply, begun.answer);
      case "run": {
        const exchange = { req: request, res: reply.raw, next: () => undefined };
        if (!runPlain(context, begun.keyed, begun.run, exchange)) return reply;
        return callHandler(reply, "pass", call);
      }
      default:
        return begun satisfies never;
    }
  };
}

type BegunPlain =
  | { readonly kind: "pass" }
  | { readonly kind: "run"; readonly keyed: Keyed; readonly run: PlainRun }
  | Told;

interface Told {
  readonly kind: "answer";
  readonly answer: Answer;
}

/** The handler of a transaction route. */
export function transactionHandler<Tx>(
  context: FastifyContext,
  given: TransactionRouteOptions<Tx, FastifyRequest>,
  handler: FastifyTransactionHandler<Tx>,
): Handler {
  const { route, using } = resolveTransactionRoute(context.options.route, given);
  const readKeyed = keyedReader(context, route);
  const read = async (request: FastifyRequest, reply: FastifyReply) => {
    const keyed = await readKeyed(request, viewOfFastify(request, reply));
    const isFree = keyed === undefined || isUnprotected(context, keyed, request, reply);
    showHeaders(reply);
    return { kind: "read", keyed: isFree ? undefined : keyed } as const;
  };
  return async function idempotentTransaction(request, reply) {
    demandHttp1(request);
    if (request.idempotency !== undefined) throw nested();
    const begun = await orRefuse(context, () => read(request, reply));
    if (begun.kind === "answer") return sendAnswer(reply, begun.answer);
    const restore = takeReply(reply);
    let instead: Told | { readonly kind: "threw"; readonly error: unknown } | undefined;
    const ran = await orRefuse(context, async () => {
      await runTransaction(context, {
        keyed: begun.keyed,
        route,
        using,
        req: request,
        res: reply.raw,
        handler: (_req, _res, tx) => {
          restore();
          const call = (): unknown => handler.call(this, request, reply, tx as Tx);
          return callHandler(reply, "reject", call);
        },
        next: (error) => (instead = { kind: "threw", error }),
        answer: (answer) => (instead = { kind: "answer", answer }),
      });
      return { kind: "ran" } as const;
    });
    const ended = ran.kind === "answer" ? ran : instead;
    if (ended === undefined) return;
    // Nothing of a run that was taken back goes into what is sent for it.
    restore();
    if (ended.kind === "threw") throw ended.error;
    await sendAnswer(reply, ended.answer);
  };
}

/** The handler of a steps route. */
export function stepsHandler(context: FastifyContext, route: HttpStepsRoute): Handler {
  const readKeyed = keyMaker(context, route.route);
  return async function idempotentSteps(request, reply) {
    demandHttp1(request);
    if (request.idempotency !== undefined) throw nested();
    const told = await orRefuse(context, async () => {
      const keyed = await readKeyed(request, viewOfFastify(request, reply));
      const answer = await answerSteps(context, keyed, route, routedOfFastify(request));
      return { kind: "answer", answer } as const;
    });
    await sendAnswer(reply, told.answer);
  };
}

/** A refusal is sent as the dialect says; a set-up error goes to the app's error handler, where somebody reads it. */
async function orRefuse<Result>(
  context: FastifyContext,
  work: () => Promise<Result>,
): Promise<Result | Told> {
  try {
    return await work();
  } catch (error) {
    if (!isIdempotencyError(error) || !isForClient(error)) throw error;
    return { kind: "answer", answer: refusal(context, undefined, error) };
  }
}

/** Runs a handler as if nothing stood in front of it. Fastify waits for the reply of one that returns nothing. */
function pass(reply: FastifyReply, call: () => unknown): unknown {
  const result = call();
  return result === undefined ? reply : result;
}

/** True while the kill switch is on: the request has been told so, and is to run as if it had no key. */
function isUnprotected(
  context: FastifyContext,
  keyed: Keyed,
  request: FastifyRequest,
  reply: FastifyReply,
): boolean {
  const unprotected = whenUnprotected(context.options, keyed);
  if (unprotected === undefined) return false;
  for (const [name, value] of unprotectedHeaders(keyed)) reply.header(name, value);
  request.idempotency = unprotected.handle;
  return true;
}

/** @throws `options_invalid` where the response is not one that can be held back */
function demandHttp1(request: FastifyRequest): void {
  if (request.raw.httpVersionMajor < 2) return;
  throw new IdempotencyError("options_invalid", { detail: noHttp2 });
}

export const noHttp2 =
  "oncekey/fastify holds back HTTP/1.1 responses and cannot hold back those of an http2 server. Let a proxy in front speak HTTP/2.";

function nested(): IdempotencyError {
  return new IdempotencyError("options_invalid", {
    detail:
      "A transaction or steps route stands behind another idempotent handler. Use one of them on this route.",
  });
}
