/**
 * Steps routes on Express. Owns: turning a request into one that can be stored, and sending what came of it. The handler
 * never sees Node's request or response: it may run again without either.
 */
import type { ServerResponse } from "node:http";
import type { StepsRequest } from "../core/attempt.js";
import type { StepsOutcome, StepsRoute } from "../core/steps-run.js";
import { sendAnswer, sendOutcome } from "./adapter.js";
import type { HttpRequest, NodeContext } from "./adapter.js";
import { keyHeaders, refusal, replayHeaders } from "./answer.js";
import type { Keyed } from "./context.js";
import { sendResponse } from "./recorder.js";
import { pathOf } from "./request.js";

/** What Express adds that a steps handler may need. */
interface RoutedRequest {
  readonly params?: Readonly<Record<string, unknown>>;
  readonly query?: Readonly<Record<string, unknown>>;
  readonly body?: unknown;
}

/** A steps route with the writer of its requests. */
export interface HttpStepsRoute extends StepsRoute {
  readonly writeRequest: (request: StepsRequest) => string;
}

export async function runSteps(
  context: NodeContext,
  keyed: Keyed,
  route: HttpStepsRoute,
  exchange: { readonly req: HttpRequest; readonly res: ServerResponse },
): Promise<void> {
  const { req, res } = exchange;
  const request = toStepsRequest(req, keyed, route);
  const begun = await context.engine.beginSteps(keyed.request, route, route.writeRequest(request));
  if (begun.kind !== "run") {
    sendOutcome(context, keyed, begun, res);
    return;
  }
  // Goes on when the client hangs up: nothing of it looks at the response.
  send(context, keyed, res, await begun.run.run(request));
}

function send(
  context: NodeContext,
  keyed: Keyed,
  res: ServerResponse,
  outcome: StepsOutcome,
): void {
  switch (outcome.kind) {
    case "stored": {
      const { response, replayUntilMs } = outcome;
      const { requestId } = keyed.request;
      sendResponse(res, response, keyHeaders(context, keyed, { requestId, replayUntilMs }, false));
      return;
    }
    case "superseded":
      sendResponse(res, outcome.response, replayHeaders(context, keyed, outcome.record));
      return;
    case "refused": {
      sendAnswer(res, refusal(context, keyed, outcome.error));
      return;
    }
    default:
      outcome satisfies never;
  }
}

function toStepsRequest(req: HttpRequest, keyed: Keyed, route: StepsRoute): StepsRequest {
  const { params = {}, query = {}, body } = req as unknown as RoutedRequest;
  const { scope, key, method } = keyed.request;
  const headers = route.options.keepHeaders.flatMap((name): [string, string][] => {
    const value = req.headers[name];
    return value === undefined ? [] : [[name, Array.isArray(value) ? value.join(", ") : value]];
  });
  return {
    scope,
    key,
    method,
    path: pathOf(req),
    params: { ...params },
    query: { ...query },
    headers: Object.fromEntries(headers),
    body,
  };
}
