/**
 * Plain routes of web-standard handlers: runs the handler under a claim and gives its response out when it is durable. Must
 * never leave a claim behind: whatever the handler does, its key is completed or given back.
 */
import { IdempotencyError } from "../core/errors.js";
import type { PlainRun } from "../core/plain-run.js";
import { storesHeader } from "../core/stored-headers.js";
import {
  giveBack,
  refusal,
  refusalFor,
  saysNothingHappened,
  settlePlain,
  unstoredHeaders,
} from "./answer.js";
import { ClaimContext } from "./context.js";
import type { AdapterContext, Keyed } from "./context.js";
import type { OpenExchange } from "./fetch-exchange.js";
import { answerResponse, capture, ownResponse, passingResponse } from "./fetch-response.js";
import type { Captured, Unheld } from "./fetch-response.js";
import { renderFailure } from "./problem.js";

/** A claimed exchange with what runs in it. */
export interface PlainCall {
  readonly context: AdapterContext<Request>;
  readonly keyed: Keyed;
  readonly exchange: OpenExchange;
  /** Runs the handlers. */
  readonly handle: () => unknown;
  /** Renders what they throw: it is stored as any other response. Undefined: a plain 500. */
  readonly onError: ((error: unknown) => unknown) | undefined;
}

/** Runs the handler, and answers for it where it takes longer than its route allows: it goes on, and the key with it. */
export async function runInTime(call: PlainCall, work: Promise<Response>): Promise<Response> {
  const { context, keyed, exchange } = call;
  const { handlerTimeoutMs } = keyed.request.route;
  if (handlerTimeoutMs === 0) return work;
  const answered = new AbortController();
  const late = context.clock.sleep(handlerTimeoutMs, answered.signal).then(() => "late" as const);
  const first = await Promise.race([work, late]);
  answered.abort();
  if (first !== "late") return first;
  // Nobody reads it any more; a stream is told so, and its key reaches its final state.
  void work.then((response) => response.body?.cancel()).catch(() => undefined);
  const answer = refusal(context, keyed, new IdempotencyError("handler_timeout"));
  return answerResponse(answer, exchange.headersBefore());
}

/** Never rejects. */
export async function runPlain(call: PlainCall, run: PlainRun): Promise<Response> {
  const { context, keyed, exchange } = call;
  const handle = new ClaimContext(run.claim);
  const before = exchange.headersBefore();
  exchange.attach(handle);
  const captured = await captureHandler(call);
  const { status } = captured.head;
  if (ClaimContext.isReleased(handle) || saysNothingHappened(keyed, status)) {
    const headers = await giveBack(context, keyed, run);
    return captured.kind === "whole"
      ? ownResponse(captured, headers)
      : passingResponse(captured, headers, () => Promise.resolve());
  }
  if (captured.kind === "unheld") return passLarge(call, run, captured);
  const settled = await settlePlain(context, keyed, run, captured.response);
  if (settled.kind === "instead") return answerResponse(settled.answer, before);
  const { headers, replayUntilMs } = settled;
  if (replayUntilMs !== undefined) ClaimContext.stored(handle, replayUntilMs);
  return ownResponse(captured, headers);
}

async function captureHandler(call: PlainCall): Promise<Captured> {
  const { context, keyed, exchange } = call;
  const { maxResponseBytes: maxBytes, stream: isStream, storeHeaders } = keyed.request.route;
  const { clock } = context;
  const stores = storesHeader(storeHeaders);
  const before = exchange.headersBefore();
  const take = (response: unknown): Promise<Captured> =>
    capture(response, { maxBytes, isStream, stores, clock, before });
  try {
    return await take(await call.handle());
  } catch (error) {
    const { onError } = call;
    if (onError !== undefined) {
      try {
        return await take(await onError(error));
      } catch (second) {
        report(second);
      }
    }
    report(error);
    const failure = { response: renderFailure(context.options.dialect), headers: [] };
    return take(answerResponse(failure, before));
  }
}

/** What nobody else will see: the framework gets a response and no error. */
function report(error: unknown): void {
  console.error(error);
}

/** Too large to keep: the row says so before the first byte leaves, and is completed after the last one. */
async function passLarge(
  { context, keyed, exchange }: PlainCall,
  run: PlainRun,
  captured: Unheld,
): Promise<Response> {
  const marked = await run.markNotStored();
  if (marked === "lost" || marked === "unavailable") {
    const code = marked === "lost" ? "outcome_unknown" : marked;
    captured.rest.reader.cancel().catch(() => undefined);
    await run.completeNotStored();
    return answerResponse(refusal(context, keyed, refusalFor(code)), exchange.headersBefore());
  }
  return passingResponse(captured, unstoredHeaders(context, keyed), () => run.completeNotStored());
}
