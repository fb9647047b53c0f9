/**
 * Transaction routes on Express: the handler's writes and its response in one commit. Owns: when such a handler is done, and
 * what its client is told when nothing was committed.
 */
import type { ServerResponse } from "node:http";
import { IdempotencyError } from "../core/errors.js";
import type { StoredResponse } from "../core/record.js";
import { pauseAfter } from "../core/retry.js";
import { storesHeader } from "../core/stored-headers.js";
import { refuseInstead } from "./adapter.js";
import type { Claimant, NextFunction, TransactionHandler } from "./adapter.js";
import { isForClient, outcomeAnswer } from "./answer.js";
import type { Answer } from "./answer.js";
import type { AdapterContext, Keyed } from "./context.js";
import { record } from "./recorder.js";
import type { Recording } from "./recording.js";
import { beginWork, conflictError, tooLateError, workHeaders } from "./transaction-work.js";
import type { TransactionSetup, Work } from "./transaction-work.js";

interface TransactionCall<Req, Res> extends TransactionSetup {
  readonly handler: TransactionHandler<Req, Res, unknown>;
  readonly req: Req;
  readonly res: Res;
  readonly next: NextFunction;
  /** Sends a replay or a refusal in place of running the handler. */
  readonly answer: (answer: Answer) => void;
}

/** How the handler ended: with a response, with one that cannot be held, with none, with an error, or not in time. */
type Ending =
  | { readonly kind: "response"; readonly response: StoredResponse }
  | { readonly kind: "too_large" }
  | { readonly kind: "streams" }
  | { readonly kind: "given_up" }
  | { readonly kind: "threw"; readonly error: unknown }
  | { readonly kind: "late" };

/** Runs the handler, and again where Postgres refuses its transaction for the sake of another one: nothing was sent yet. */
export async function runTransaction<Req extends Claimant, Res extends ServerResponse>(
  context: AdapterContext<never>,
  call: TransactionCall<Req, Res>,
): Promise<void> {
  const { clock, options } = context;
  for (let tries = 1; ; tries += 1) {
    const work = await begin(context, call, tries);
    if (work === "refused") return;
    const ended = await finish(context, call, work, tries <= call.route.transactionRetries);
    if (ended === "done") return;
    options.onEvent({ type: "transaction_retried", tries });
    await clock.sleep(pauseAfter(tries, clock.random()));
  }
}

/** Opens the transaction and claims in it, or sends why not. */
async function begin<Req extends Claimant, Res extends ServerResponse>(
  context: AdapterContext<never>,
  call: TransactionCall<Req, Res>,
  tries: number,
): Promise<Work | "refused"> {
  const { keyed, req } = call;
  const begun = await beginWork(context, call, tries, (handle) => {
    req.idempotency = handle;
  });
  if (begun.kind === "work") return begun.work;
  // Only a key can be refused.
  call.answer(outcomeAnswer(context, keyed as Keyed, begun));
  return "refused";
}

async function finish<Req extends Claimant, Res extends ServerResponse>(
  context: AdapterContext<never>,
  call: TransactionCall<Req, Res>,
  work: Work,
  mayRunAgain: boolean,
): Promise<"done" | "again"> {
  const { keyed, res, next } = call;
  const { recording, ending } = runHandler(context, call, work.tx);
  const conflicted = (cause: unknown): "done" | "again" => {
    if (mayRunAgain) {
      recording.discard();
      return "again";
    }
    refuseInstead(context, keyed, recording, conflictError(cause));
    return "done";
  };
  const ended = await ending;
  switch (ended.kind) {
    case "threw":
      await work.rollback();
      if (context.engine.isConflict(ended.error)) return conflicted(ended.error);
      recording.discard();
      next(ended.error);
      return "done";
    case "late":
      await work.rollback();
      refuseInstead(context, keyed, recording, tooLateError());
      return "done";
    case "streams":
      await work.rollback();
      refuseInstead(context, keyed, recording, new IdempotencyError("response_streamed"));
      return "done";
    case "given_up":
      // Its client has lost the connection; a retry runs again, since nothing was written.
      await work.rollback();
      return "done";
    case "too_large":
      await work.rollback();
      recording.discard();
      next(new IdempotencyError("response_too_large"));
      return "done";
    case "response": {
      const { response } = ended;
      if (response.status >= 500 || work.saysNothingHappened(response.status)) {
        await work.rollback();
        recording.send(workHeaders(context, keyed, undefined, true));
        return "done";
      }
      const committed = await work.commit(response);
      if (committed.kind === "conflict") return conflicted(committed.cause);
      if (committed.kind === "stored") {
        recording.send(workHeaders(context, keyed, committed.replayUntilMs, false));
      } else if (isForClient(committed.error)) {
        refuseInstead(context, keyed, recording, committed.error);
      } else {
        recording.discard();
        next(committed.error);
      }
      return "done";
    }
    default:
      ended satisfies never;
      res.destroy();
      return "done";
  }
}

/** The transaction ends when the response has ended and the handler's promise has settled, or when its time is up. */
function runHandler<Req extends Claimant, Res extends ServerResponse>(
  context: AdapterContext<never>,
  call: TransactionCall<Req, Res>,
  tx: unknown,
): { recording: Recording; ending: Promise<Ending> } {
  const { route, handler, req, res } = call;
  let answered: (ending: Ending) => void = () => undefined;
  const answer = new Promise<Ending>((resolve) => (answered = resolve));
  let stream = (): void => undefined;
  const recording = record(res, {
    maxBytes: route.maxResponseBytes,
    stores: storesHeader(route.storeHeaders),
    onOverflow: (why) => {
      if (why === "stream") stream();
      else answered({ kind: "too_large" });
      return "drop";
    },
    onEnd: (response) => answered({ kind: "response", response }),
    onGivenUp: () => answered({ kind: "given_up" }),
  });
  const run = async (): Promise<Ending> => {
    try {
      await handler(req, res, tx);
    } catch (error) {
      return { kind: "threw", error };
    }
    return answer;
  };
  const ending = new Promise<Ending>((resolve, reject) => {
    const stopWaiting = context.clock.after(route.transactionTimeoutMs, () =>
      resolve({ kind: "late" }),
    );
    const end = (ended: Ending): void => {
      stopWaiting();
      resolve(ended);
    };
    // A stream has no end that could be waited for.
    stream = () => end({ kind: "streams" });
    run().then(end, reject);
  });
  return { recording, ending };
}
