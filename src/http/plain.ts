/**
 * Plain routes: runs the handlers behind the middleware and sends their response when it is durable. Owns: what the client
 * is sent for each thing that can become of a response.
 */
import type { ServerResponse } from "node:http";
import type { Completed, PlainRun } from "../core/plain-run.js";
import type { StoredResponse } from "../core/record.js";
import {
  attachContext,
  keyHeaders,
  replayHeaders,
  sendErrorInstead,
  unstoredHeaders,
} from "./adapter.js";
import type { AdapterContext, HttpRequest, Keyed, NextFunction } from "./adapter.js";
import { record } from "./recorder.js";
import type { Recording } from "./recorder.js";

/** Hands the request on to its handlers, under a claim. */
export function runPlain(
  context: AdapterContext,
  keyed: Keyed,
  run: PlainRun,
  exchange: {
    readonly req: HttpRequest;
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
  const nothingHappened = (): boolean =>
    released ||
    route.releaseOn.includes(res.statusCode) ||
    (res.statusCode >= 500 && route.serverErrors === "release");
  const watch = (during: string, work: Promise<void>): void => {
    work.catch((error: unknown) => context.options.onEvent({ type: "store_error", during, error }));
  };
  const recording = record(res, {
    maxBytes: route.maxResponseBytes,
    onEnd: (response) => {
      if (nothingHappened()) watch("release", giveBack(context, keyed, run, recording));
      else watch("complete", complete(context, keyed, run, recording, response, state));
    },
    onOverflow: () => {
      if (nothingHappened()) watch("release", giveBackLarge(context, keyed, run, recording));
      else watch("stream", passLarge(context, keyed, run, recording));
      return "wait";
    },
  });
  next();
}

async function complete(
  context: AdapterContext,
  keyed: Keyed,
  run: PlainRun,
  recording: Recording,
  response: StoredResponse,
  state: { replayUntil: Date | undefined },
): Promise<void> {
  const completed = await run.complete(response);
  if (completed.kind === "stored") state.replayUntil = new Date(completed.replayUntilMs);
  send(context, keyed, recording, completed);
}

function send(
  context: AdapterContext,
  keyed: Keyed,
  recording: Recording,
  completed: Completed,
): void {
  switch (completed.kind) {
    case "stored": {
      const { requestId } = keyed.request;
      const { replayUntilMs } = completed;
      recording.send(keyHeaders(context, keyed, { requestId, replayUntilMs }, false));
      return;
    }
    case "unstored":
      recording.send(unstoredHeaders(context, keyed));
      return;
    case "superseded":
      recording.sendInstead(completed.response, replayHeaders(context, keyed, completed.record));
      return;
    case "outcome_unknown":
    case "unavailable":
      sendErrorInstead(context, keyed, recording, completed.kind);
      return;
    default:
      completed satisfies never;
  }
}

/** The key is free before the client hears, so that a retry that comes at once is not turned away. */
async function giveBack(
  context: AdapterContext,
  keyed: Keyed,
  run: PlainRun,
  recording: Recording,
): Promise<void> {
  await run.release();
  recording.send(keyHeaders(context, keyed, undefined, true));
}

async function giveBackLarge(
  context: AdapterContext,
  keyed: Keyed,
  run: PlainRun,
  recording: Recording,
): Promise<void> {
  await run.release();
  recording.stream(keyHeaders(context, keyed, undefined, true), () => Promise.resolve());
}

/** Too large to keep: the row says so before the first byte leaves, and is completed after the last one. */
async function passLarge(
  context: AdapterContext,
  keyed: Keyed,
  run: PlainRun,
  recording: Recording,
): Promise<void> {
  const marked = await run.markNotStored();
  if (marked === "lost" || marked === "unavailable") {
    const code = marked === "lost" ? "outcome_unknown" : marked;
    sendErrorInstead(context, keyed, recording, code);
    await run.completeNotStored();
    return;
  }
  recording.stream(unstoredHeaders(context, keyed), () => run.completeNotStored());
}
