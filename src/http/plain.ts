/**
 * Plain routes on Node: runs the handlers behind the middleware and sends their response when it is durable.
 */
import type { ServerResponse } from "node:http";
import { IdempotencyError } from "../core/errors.js";
import type { PlainRun } from "../core/plain-run.js";
import type { StoredResponse } from "../core/record.js";
import { storesHeader } from "../core/stored-headers.js";
import { attachContext, refuseInstead, sendInstead } from "./adapter.js";
import type { Claimant, NextFunction } from "./adapter.js";
import {
  giveBack,
  refusal,
  refusalFor,
  saysNothingHappened,
  settlePlain,
  unstoredHeaders,
} from "./answer.js";
import type { AdapterContext, Keyed } from "./context.js";
import { record } from "./recorder.js";
import type { Recording } from "./recording.js";

/** Hands the request on to its handlers, under a claim. */
export function runPlain(
  context: AdapterContext<never>,
  keyed: Keyed,
  run: PlainRun,
  exchange: {
    readonly req: Claimant;
    readonly res: ServerResponse;
    readonly next: NextFunction;
  },
): void {
  const { req, res, next } = exchange;
  const { route } = keyed.request;
  let released = false;
  const state = attachContext(req, run.claim, () => {
    released = true;
  });
  const nothingHappened = (): boolean => released || saysNothingHappened(keyed, res.statusCode);
  const watch = (during: string, work: Promise<void>): void => {
    work.catch((error: unknown) => context.options.onEvent({ type: "store_error", during, error }));
  };
  let answered = (): void => undefined;
  const recording = record(res, {
    maxBytes: route.maxResponseBytes,
    isStream: route.stream,
    stores: storesHeader(route.storeHeaders),
    onEnd: (response) => {
      answered();
      if (nothingHappened()) watch("release", release(context, keyed, run, recording));
      else watch("complete", complete(context, keyed, run, recording, response, state));
    },
    onOverflow: () => {
      answered();
      if (nothingHappened()) watch("release", releaseLarge(context, keyed, run, recording));
      else watch("stream", passLarge(context, keyed, run, recording));
      return "wait";
    },
    onGivenUp: () => {
      answered();
      watch("give_up", giveUp(run, released));
    },
  });
  if (route.handlerTimeoutMs > 0) {
    const answer = (): void => answerLate(context, keyed, recording);
    answered = context.clock.after(route.handlerTimeoutMs, answer);
  }
  next();
}

/** The client is told that its handler takes too long; the handler goes on, and the key with it. */
function answerLate(context: AdapterContext<never>, keyed: Keyed, recording: Recording): void {
  const { response, headers } = refusal(context, keyed, new IdempotencyError("handler_timeout"));
  recording.answerEarly(response, headers);
}

/** No answer stands for what the handler did, unless it has said that it did nothing. */
async function giveUp(run: PlainRun, released: boolean): Promise<void> {
  if (released) await run.release();
  else await run.completeNotStored();
}

async function complete(
  context: AdapterContext<never>,
  keyed: Keyed,
  run: PlainRun,
  recording: Recording,
  response: StoredResponse,
  state: { replayUntil: Date | undefined },
): Promise<void> {
  const settled = await settlePlain(context, keyed, run, response);
  if (settled.kind === "instead") {
    sendInstead(recording, settled.answer);
    return;
  }
  const { headers, replayUntilMs } = settled;
  if (replayUntilMs !== undefined) state.replayUntil = new Date(replayUntilMs);
  recording.send(headers);
}

async function release(
  context: AdapterContext<never>,
  keyed: Keyed,
  run: PlainRun,
  recording: Recording,
): Promise<void> {
  recording.send(await giveBack(context, keyed, run));
}

async function releaseLarge(
  context: AdapterContext<never>,
  keyed: Keyed,
  run: PlainRun,
  recording: Recording,
): Promise<void> {
  recording.stream(await giveBack(context, keyed, run), () => Promise.resolve());
}

/** Too large to keep, or a stream: the row says so before the first byte leaves, and is completed after the last one. */
async function passLarge(
  context: AdapterContext<never>,
  keyed: Keyed,
  run: PlainRun,
  recording: Recording,
): Promise<void> {
  const marked = await run.markNotStored();
  if (marked === "lost" || marked === "unavailable") {
    const code = marked === "lost" ? "outcome_unknown" : marked;
    refuseInstead(context, keyed, recording, refusalFor(code));
    await run.completeNotStored();
    return;
  }
  recording.stream(unstoredHeaders(context, keyed), () => run.completeNotStored());
}
