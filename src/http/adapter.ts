/**
 * What the pieces of the Node adapter share. Owns: the headers and refusals that every answer for a key has, and what a
 * handler sees of its claim.
 */
import type { IncomingMessage, ServerResponse } from "node:http";
import type { PoolClient } from "pg";
import type { Clock } from "../core/clock.js";
import { downstreamKey } from "../core/downstream-key.js";
import type { Engine } from "../core/engine.js";
import { IdempotencyError, isIdempotencyError } from "../core/errors.js";
import type { ResolvedOptions } from "../core/options.js";
import type { KeyRecord } from "../core/record.js";
import type { KeyedRequest, Outcome } from "../core/request.js";
import { renderError } from "./problem.js";
import { sendResponse } from "./recorder.js";
import type { Prepare, Recording } from "./recorder.js";

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

/** A Node request with what Express, its parsers and the app's own declarations add. */
export type HttpRequest = IncomingMessage & Express.Request;

/** What a handler can learn and say about its key. */
export interface IdempotencyContext {
  readonly key: string;
  readonly scope: string;
  /** 1 for the first run; more where the route allows a rerun, and where a transaction is run again after a conflict. */
  readonly attempt: number;
  /** Fencing number: give it to what can refuse older ones. */
  readonly token: number;
  /** End of the replay window; undefined until the response is stored, since the window starts then. */
  readonly replayUntil: Date | undefined;
  /**
   * Says that nothing happened: the response is sent, is not stored, and the key can be used again. Call it before the
   * response ends.
   */
  release(): void;
  /** A key for a call to another service, the same on every attempt and different for every name. */
  downstreamKey(name: string): string;
  /**
   * Puts a message into the outbox, in the transaction of this route: a worker delivers it, at least once and in order for
   * this key, if the transaction commits. Resolves with the event's stable id. Throws at once `message_invalid`,
   * `transaction_ended`, and on plain routes `send_not_possible`.
   *
   * @param payload a JSON value of at most 256 KiB
   */
  send(topic: string, payload: unknown): Promise<string>;
}

export type NextFunction = (error?: unknown) => void;
export type Middleware<Req, Res> = (req: Req, res: Res, next: NextFunction) => void;
/** Writes through `tx` and answers through `res`; both are durable together or not at all. */
export type TransactionHandler<Req, Res, Tx = PoolClient> = (req: Req, res: Res, tx: Tx) => unknown;

/** What the pieces of the adapter share. */
export interface AdapterContext {
  readonly engine: Engine;
  readonly clock: Clock;
  readonly options: ResolvedOptions<HttpRequest>;
}

/** A request whose key has been read. */
export interface Keyed {
  readonly request: KeyedRequest;
  /** The header as the client sent it, to echo; undefined where the key was made for it. */
  readonly sent: string | undefined;
}

/** A refusal is sent as the dialect says; a set-up error goes to the app's error handler, where somebody reads it. */
export function fail(
  context: AdapterContext,
  error: unknown,
  res: ServerResponse,
  next: NextFunction,
): void {
  if (isIdempotencyError(error) && (error.status < 500 || error.code === "store_unavailable")) {
    sendResponse(res, renderError(error, context.options.dialect), () => undefined);
  } else next(error);
}

/** The headers that every answer for a key carries. */
export function keyHeaders(
  context: AdapterContext,
  keyed: Keyed,
  stored: KeptAnswer | undefined,
  retryable: boolean,
): Prepare {
  return (res) => {
    if (keyed.sent !== undefined) res.setHeader("Idempotency-Key", keyed.sent);
    if (stored !== undefined) res.setHeader("Original-Request", stored.requestId);
    if (stored?.replayUntilMs !== undefined) {
      res.setHeader("Idempotency-Expires", new Date(stored.replayUntilMs).toUTCString());
    }
    if (context.options.dialect === "stripe")
      res.setHeader("Stripe-Should-Retry", String(retryable));
  };
}

/** What the headers of a stored answer tell. */
export type KeptAnswer = Pick<KeyRecord, "requestId" | "replayUntilMs">;

/** Sends a replay or a refusal. */
export function sendOutcome(
  context: AdapterContext,
  keyed: Keyed,
  outcome: Outcome,
  res: ServerResponse,
): void {
  if (outcome.kind === "replay") {
    context.options.onEvent({ type: "replayed" });
    sendResponse(res, outcome.response, replayHeaders(context, keyed, outcome.record));
    return;
  }
  const prepare = keyHeaders(context, keyed, undefined, outcome.error.retryable);
  sendResponse(res, renderError(outcome.error, context.options.dialect), prepare);
}

/** What a handler sees as `req.idempotency`. */
export function attachContext(
  req: HttpRequest,
  claim: {
    readonly scope: string;
    readonly key: string;
    readonly attempt: number;
    readonly token: number;
  },
  release: () => void,
  send: IdempotencyContext["send"] = () => {
    throw new IdempotencyError("send_not_possible");
  },
): { replayUntil: Date | undefined } {
  const state: { replayUntil: Date | undefined } = { replayUntil: undefined };
  req.idempotency = {
    key: claim.key,
    scope: claim.scope,
    attempt: claim.attempt,
    token: claim.token,
    get replayUntil() {
      return state.replayUntil;
    },
    release,
    downstreamKey: (name) => downstreamKey(claim, name),
    send,
  };
  return state;
}

/** The headers of a replay. */
export function replayHeaders(context: AdapterContext, keyed: Keyed, stored: KeptAnswer): Prepare {
  const common = keyHeaders(context, keyed, stored, false);
  return (res) => {
    common(res);
    res.setHeader("Idempotent-Replayed", "true");
  };
}

/** The headers of a response that is not, or not yet, stored. */
export function unstoredHeaders(context: AdapterContext, keyed: Keyed): Prepare {
  const common = keyHeaders(
    context,
    keyed,
    { requestId: keyed.request.requestId, replayUntilMs: undefined },
    false,
  );
  return (res) => {
    common(res);
    res.setHeader("Idempotency-Stored", "false");
  };
}

/** Sends a refusal in place of what the handler answered. */
export function sendErrorInstead(
  context: AdapterContext,
  keyed: Keyed,
  recording: Recording,
  code: "outcome_unknown" | "unavailable" | IdempotencyError,
): void {
  const error =
    typeof code !== "string"
      ? code
      : code === "unavailable"
        ? new IdempotencyError("store_unavailable", { retryAfterSeconds: 1 })
        : new IdempotencyError("outcome_unknown");
  const prepare = keyHeaders(context, keyed, undefined, error.retryable);
  recording.sendInstead(renderError(error, context.options.dialect), prepare);
}
