/**
 * Transaction routes of web-standard handlers: the handler's writes and its response in one commit. Owns: when such a handler
 * is done, and what its client is told when nothing was committed.
 */
import { IdempotencyError, isIdempotencyError } from "../core/errors.js";
import type { StoredResponse } from "../core/record.js";
import { pauseAfter } from "../core/retry.js";
import { storesHeader } from "../core/stored-headers.js";
import { isForClient, outcomeAnswer, refusal } from "./answer.js";
import type { AdapterContext, Keyed } from "./context.js";
import type { OpenExchange } from "./fetch-exchange.js";
import { answerResponse, capture, ownResponse } from "./fetch-response.js";
import type { Whole } from "./fetch-response.js";
import { beginWork, conflictError, tooLateError, workHeaders } from "./transaction-work.js";
import type { BegunWork, TransactionSetup, Work } from "./transaction-work.js";

export interface TransactionCall extends TransactionSetup {
  readonly context: AdapterContext<Request>;
  readonly exchange: OpenExchange;
  readonly handle: (tx: unknown) => unknown;
}

/** How the handler ended: with a response, with one that cannot be held, with an error, or not in time. */
type Ending =
  | { readonly kind: "response"; readonly captured: Whole }
  | { readonly kind: "unheld"; readonly why: "large" | "stream" }
  | { readonly kind: "threw"; readonly error: unknown }
  | { readonly kind: "late" };

/**
 * Runs the handler, and again where Postgres refuses its transaction for the sake of another one: nothing was sent yet. Rejects
 * with what the handler throws, after everything was taken back.
 */
export async function runTransaction(call: TransactionCall): Promise<Response> {
  const { context, exchange, keyed, route } = call;
  const before = exchange.headersBefore();
  for (let tries = 1; ; tries += 1) {
    if (tries > 1) await exchange.rewind();
    const begun = await begin(call, tries);
    if (isIdempotencyError(begun)) return refused(call, begun);
    // Only a key can be refused.
    if (begun.kind !== "work")
      return answerResponse(outcomeAnswer(context, keyed as Keyed, begun), before);
    const finished = await finish(call, begun.work);
    if (finished.kind === "answer") return finished.response;
    if (tries > route.transactionRetries) return refused(call, conflictError(finished.cause));
    context.options.onEvent({ type: "transaction_retried", tries });
    await context.clock.sleep(pauseAfter(tries, context.clock.random()));
  }
}

/** Without a key, a store that cannot be reached is no outcome. */
async function begin(call: TransactionCall, tries: number): Promise<BegunWork | IdempotencyError> {
  const { context, exchange } = call;
  try {
    return await beginWork(context, call, tries, (handle) => exchange.attach(handle));
  } catch (error) {
    if (isIdempotencyError(error) && isForClient(error)) return error;
    throw error;
  }
}

type Finished =
  | { readonly kind: "answer"; readonly response: Response }
  | { readonly kind: "conflict"; readonly cause: unknown };

async function finish(call: TransactionCall, work: Work): Promise<Finished> {
  const { context, keyed } = call;
  const answer = (response: Response): Finished => ({ kind: "answer", response });
  const ended = await runHandler(call, work.tx);
  switch (ended.kind) {
    case "threw":
      await work.rollback();
      if (context.engine.isConflict(ended.error)) return { kind: "conflict", cause: ended.error };
      throw ended.error;
    case "late":
      await work.rollback();
      return answer(refused(call, tooLateError()));
    case "unheld":
      await work.rollback();
      if (ended.why === "large") throw new IdempotencyError("response_too_large");
      return answer(refused(call, new IdempotencyError("response_streamed")));
    case "response": {
      const { captured } = ended;
      const { status } = captured.head;
      if (status >= 500 || work.saysNothingHappened(status)) {
        await work.rollback();
        return answer(ownResponse(captured, workHeaders(context, keyed, undefined, true)));
      }
      return commit(call, work, captured, captured.response);
    }
    default:
      return ended satisfies never;
  }
}

async function commit(
  call: TransactionCall,
  work: Work,
  captured: Whole,
  response: StoredResponse,
): Promise<Finished> {
  const { context, keyed } = call;
  const committed = await work.commit(response);
  if (committed.kind === "conflict") return committed;
  if (committed.kind === "not_stored") {
    if (!isForClient(committed.error)) throw committed.error;
    return { kind: "answer", response: refused(call, committed.error) };
  }
  const headers = workHeaders(context, keyed, committed.replayUntilMs, false);
  return { kind: "answer", response: ownResponse(captured, headers) };
}

function refused({ context, keyed, exchange }: TransactionCall, error: IdempotencyError): Response {
  return answerResponse(refusal(context, keyed, error), exchange.headersBefore());
}

/** The transaction ends when the handler has returned and its response was read to the end, or when its time is up. */
async function runHandler(call: TransactionCall, tx: unknown): Promise<Ending> {
  const { context, route, exchange, handle } = call;
  const { clock } = context;
  const run = async (): Promise<Ending> => {
    try {
      const captured = await capture(await handle(tx), {
        maxBytes: route.maxResponseBytes,
        isStream: false,
        stores: storesHeader(route.storeHeaders),
        clock,
        before: exchange.headersBefore(),
      });
      if (captured.kind === "whole") return { kind: "response", captured };
      captured.rest.reader.cancel().catch(() => undefined);
      return { kind: "unheld", why: captured.why };
    } catch (error) {
      return { kind: "threw", error };
    }
  };
  const stopWaiting = new AbortController();
  const late = clock
    .sleep(route.transactionTimeoutMs, stopWaiting.signal)
    .then((): Ending => ({ kind: "late" }));
  return Promise.race([run(), late]).finally(() => stopWaiting.abort());
}
