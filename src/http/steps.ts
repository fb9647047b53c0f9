/**
 * Steps routes. Owns: turning a request into one that can be stored, and saying as data what came of it. The handler never sees
 * a framework's request or response: it may run again without either.
 */
import type { IncomingHttpHeaders } from "node:http";
import type { StepsRequest } from "../core/attempt.js";
import type { StepsOutcome, StepsRoute } from "../core/steps-run.js";
import { keyHeaders, outcomeAnswer, refusal, replayHeaders } from "./answer.js";
import type { Answer } from "./answer.js";
import type { AdapterContext, Keyed } from "./context.js";

/** What of a request is kept for its attempts, as routers and parsers leave it. */
export interface RoutedRequest {
  readonly headers: IncomingHttpHeaders;
  /** Path without the query. */
  readonly path: string;
  readonly params: Readonly<Record<string, unknown>>;
  readonly query: Readonly<Record<string, unknown>>;
  readonly body: unknown;
}

/** A steps route with the writer of its requests. */
export interface HttpStepsRoute extends StepsRoute {
  readonly writeRequest: (request: StepsRequest) => string;
}

/** Carries a request to its answer. Goes on when the client hangs up: nothing of it looks at the response. */
export async function answerSteps(
  context: AdapterContext<never>,
  keyed: Keyed,
  route: HttpStepsRoute,
  routed: RoutedRequest,
): Promise<Answer> {
  const request = toStepsRequest(routed, keyed, route);
  const begun = await context.engine.beginSteps(keyed.request, route, route.writeRequest(request));
  if (begun.kind !== "run") return outcomeAnswer(context, keyed, begun);
  return answerFor(context, keyed, await begun.run.run(request));
}

function answerFor(context: AdapterContext<never>, keyed: Keyed, outcome: StepsOutcome): Answer {
  switch (outcome.kind) {
    case "stored": {
      const { response, replayUntilMs } = outcome;
      const { requestId } = keyed.request;
      return { response, headers: keyHeaders(context, keyed, { requestId, replayUntilMs }, false) };
    }
    case "superseded":
      return {
        response: outcome.response,
        headers: replayHeaders(context, keyed, outcome.record),
      };
    case "refused":
      return refusal(context, keyed, outcome.error);
    default:
      return outcome satisfies never;
  }
}

function toStepsRequest(routed: RoutedRequest, keyed: Keyed, route: StepsRoute): StepsRequest {
  const { scope, key, method } = keyed.request;
  const headers = route.options.keepHeaders.flatMap((name): [string, string][] => {
    const value = routed.headers[name];
    return value === undefined ? [] : [[name, Array.isArray(value) ? value.join(", ") : value]];
  });
  return {
    scope,
    key,
    method,
    path: routed.path,
    params: { ...routed.params },
    query: { ...routed.query },
    headers: Object.fromEntries(headers),
    body: routed.body,
  };
}
