/**
 * What the pieces of the Node adapter share. Owns: writing answers on Node's responses, and `req.idempotency`.
 */
import type { IncomingMessage, ServerResponse } from "node:http";
import type { PoolClient } from "pg";
import { isIdempotencyError } from "../core/errors.js";
import type { IdempotencyError } from "../core/errors.js";
import type { Outcome } from "../core/request.js";
import { isForClient, outcomeAnswer, refusal, unprotectedHeaders } from "./answer.js";
import type { Answer } from "./answer.js";
import { whenUnprotected } from "./context.js";
import type { AdapterContext, IdempotencyContext, Keyed } from "./context.js";
import type { Recording } from "./recording.js";
import { sendResponse } from "./send-response.js";

declare global {
  // Express declares its request in this namespace, and so do those who extend it.
  // oxlint-disable-next-line typescript/no-namespace
  namespace Express {
    interface Request {
      /** The claim under which this handler runs; undefined where the request has no key. */
      idempotency?: IdempotencyContext;
    }
  }
}

/** What is handed the claim under which its handler runs. */
export interface Claimant {
  idempotency?: IdempotencyContext | undefined;
}

/** A Node request with what Express, its parsers and the app's own declarations add. */
export type HttpRequest = IncomingMessage & Express.Request;

export type NextFunction = (error?: unknown) => void;
export type Middleware<Req, Res> = (req: Req, res: Res, next: NextFunction) => void;
/** Writes through `tx` and answers through `res`; both are durable together or not at all. */
export type TransactionHandler<Req, Res, Tx = PoolClient> = (req: Req, res: Res, tx: Tx) => unknown;

/** What the pieces of the Node adapter share. */
export type NodeContext = AdapterContext<HttpRequest>;

/** A refusal is sent as the dialect says; a set-up error goes to the app's error handler, where somebody reads it. */
export function fail(
  context: NodeContext,
  error: unknown,
  res: ServerResponse,
  next: NextFunction,
): void {
  if (isIdempotencyError(error) && isForClient(error))
    sendAnswer(res, refusal(context, undefined, error));
  else next(error);
}

export function sendAnswer(res: ServerResponse, answer: Answer): void {
  sendResponse(res, answer.response, answer.headers);
}

/** Sends a replay or a refusal. */
export function sendOutcome(
  context: NodeContext,
  keyed: Keyed,
  outcome: Outcome,
  res: ServerResponse,
): void {
  sendAnswer(res, outcomeAnswer(context, keyed, outcome));
}

/** Sends an answer in place of what the handler has answered. */
export function sendInstead(recording: Recording, answer: Answer): void {
  recording.sendInstead(answer.response, answer.headers);
}

/** Sends a refusal in place of what the handler has answered. */
export function refuseInstead(
  context: AdapterContext<never>,
  keyed: Keyed | undefined,
  recording: Recording,
  error: IdempotencyError,
): void {
  sendInstead(recording, refusal(context, keyed, error));
}

/** True while the kill switch is on: the request has been told so, and is to run as if it had no key. */
export function isUnprotected(
  context: NodeContext,
  keyed: Keyed,
  req: HttpRequest,
  res: ServerResponse,
): boolean {
  const unprotected = whenUnprotected(context.options, keyed);
  if (unprotected === undefined) return false;
  for (const [name, value] of unprotectedHeaders(keyed)) res.setHeader(name, value);
  req.idempotency = unprotected.handle;
  return true;
}
