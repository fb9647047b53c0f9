/**
 * Transaction routes on Express: the handler's writes and its response in one commit. Owns: when such a handler is done, and
 * what its client is told when nothing was committed.
 */
import type { ServerResponse } from "node:http";
import type { PoolClient } from "pg";
import { IdempotencyError } from "../core/errors.js";
import type { ResolvedRoute } from "../core/options.js";
import type { StoredResponse } from "../core/record.js";
import type { Committed } from "../core/transaction-run.js";
import { attachContext, keyHeaders, sendErrorInstead, sendOutcome } from "./adapter.js";
import type {
  AdapterContext,
  HttpRequest,
  Keyed,
  NextFunction,
  TransactionHandler,
} from "./adapter.js";
import { renderError } from "./problem.js";
import { record } from "./recorder.js";
import type { Prepare, Recording } from "./recorder.js";

interface TransactionCall<Req, Res> {
  /** Undefined for a request without a key: the handler still gets a transaction. */
  readonly keyed: Keyed | undefined;
  readonly route: ResolvedRoute;
  readonly handler: TransactionHandler<Req, Res>;
  readonly req: Req;
  readonly res: Res;
  readonly next: NextFunction;
}

/** An open transaction, keyed or not. */
interface Work {
  readonly tx: unknown;
  commit(response: StoredResponse): Promise<Committed>;
  rollback(): Promise<void>;
}

/** How the handler ended: with a response, with one that is too large, with an error, or not in time. */
type Ending =
  | { readonly kind: "response"; readonly response: StoredResponse }
  | { readonly kind: "too_large" }
  | { readonly kind: "threw"; readonly error: unknown }
  | { readonly kind: "late" };

export async function runTransaction<Req extends HttpRequest, Res extends ServerResponse>(
  context: AdapterContext,
  call: TransactionCall<Req, Res>,
): Promise<void> {
  const { keyed, route, req, res } = call;
  if (keyed === undefined) {
    const open = await context.engine.openTransaction(route.transactionTimeoutMs);
    await finish(context, call, {
      tx: open.tx,
      rollback: () => open.rollback(),
      commit: async () => {
        const answer = await open.commit();
        if (answer.kind === "committed")
          return { kind: "stored", replayUntilMs: answer.replayUntilMs };
        // Without a key nobody can find out what happened; a retry would be another request.
        return {
          kind: "rolled_back",
          error: new IdempotencyError("transaction_failed", { cause: answer.cause }),
        };
      },
    });
    return;
  }
  const begun = await context.engine.beginTransaction(keyed.request);
  if (begun.kind !== "run") {
    sendOutcome(context, keyed, begun, res);
    return;
  }
  const { run } = begun;
  let released = false;
  const state = attachContext(req, run.claim, () => {
    released = true;
  });
  await finish(
    context,
    call,
    {
      tx: run.tx,
      rollback: () => run.rollback(),
      commit: async (response) => {
        const committed = await run.commit(response);
        if (committed.kind === "stored") state.replayUntil = new Date(committed.replayUntilMs);
        return committed;
      },
    },
    (status) => released || route.releaseOn.includes(status),
  );
}

async function finish<Req extends HttpRequest, Res extends ServerResponse>(
  context: AdapterContext,
  call: TransactionCall<Req, Res>,
  work: Work,
  saysNothingHappened: (status: number) => boolean = () => false,
): Promise<void> {
  const { keyed, res, next } = call;
  const { recording, ending } = runHandler(context, call, work.tx as PoolClient);
  const ended = await ending;
  switch (ended.kind) {
    case "threw":
      await work.rollback();
      recording.discard();
      next(ended.error);
      return;
    case "late":
      await work.rollback();
      refuse(context, keyed, recording, tooLate());
      return;
    case "too_large":
      await work.rollback();
      recording.discard();
      next(new IdempotencyError("response_too_large"));
      return;
    case "response": {
      const { response } = ended;
      if (response.status >= 500 || saysNothingHappened(response.status)) {
        await work.rollback();
        recording.send(headersFor(context, keyed, undefined, true));
        return;
      }
      const committed = await work.commit(response);
      if (committed.kind === "stored") {
        recording.send(headersFor(context, keyed, committed.replayUntilMs, false));
      } else if (committed.error.code === "store_unavailable") {
        refuse(context, keyed, recording, committed.error);
      } else {
        recording.discard();
        next(committed.error);
      }
      return;
    }
    default:
      ended satisfies never;
      res.destroy();
  }
}

/** The transaction ends when the response has ended and the handler's promise has settled, or when its time is up. */
function runHandler<Req extends HttpRequest, Res extends ServerResponse>(
  context: AdapterContext,
  call: TransactionCall<Req, Res>,
  tx: PoolClient,
): { recording: Recording; ending: Promise<Ending> } {
  const { route, handler, req, res } = call;
  let answered: (ending: Ending) => void = () => undefined;
  const answer = new Promise<Ending>((resolve) => (answered = resolve));
  const recording = record(res, {
    maxBytes: route.maxResponseBytes,
    onOverflow: () => {
      answered({ kind: "too_large" });
      return "drop";
    },
    onEnd: (response) => answered({ kind: "response", response }),
  });
  const run = async (): Promise<Ending> => {
    try {
      await handler(req, res, tx);
    } catch (error) {
      return { kind: "threw", error };
    }
    return answer;
  };
  const stopWaiting = new AbortController();
  const late = context.clock
    .sleep(route.transactionTimeoutMs, stopWaiting.signal)
    .then((): Ending => ({ kind: "late" }));
  const ending = Promise.race([run(), late]).finally(() => stopWaiting.abort());
  return { recording, ending };
}

function refuse(
  context: AdapterContext,
  keyed: Keyed | undefined,
  recording: Recording,
  error: IdempotencyError,
): void {
  if (keyed !== undefined) sendErrorInstead(context, keyed, recording, error);
  else recording.sendInstead(renderError(error, context.options.dialect), () => undefined);
}

function headersFor(
  context: AdapterContext,
  keyed: Keyed | undefined,
  replayUntilMs: number | undefined,
  retryable: boolean,
): Prepare {
  if (keyed === undefined) return () => undefined;
  const { requestId } = keyed.request;
  return keyHeaders(
    context,
    keyed,
    replayUntilMs === undefined ? undefined : { requestId, replayUntilMs },
    retryable,
  );
}

function tooLate(): IdempotencyError {
  return new IdempotencyError("transaction_failed", {
    detail:
      "The handler did not finish within transactionTimeoutMs. Nothing was written; the same key can be sent again.",
  });
}
