/**
 * A steps route put together: its handler, options and the form in which its requests are stored.
 */
import type { ResolvedSteps, StepsHandler, StepsRequest } from "../core/attempt.js";
import type { Clock } from "../core/clock.js";
import type { ResolvedRoute } from "../core/options.js";
import type { StepsRoute } from "../core/steps-run.js";
import type { StepsSource } from "../core/steps-port.js";
import { runAttempt } from "./attempt.js";
import { deserialise, serialise } from "./serialise.js";

export interface StepsRouteInput {
  readonly name: string;
  readonly handler: StepsHandler;
  readonly route: ResolvedRoute;
  readonly options: ResolvedSteps;
  readonly source: StepsSource;
  readonly clock: Clock;
}

export function createStepsRoute(
  input: StepsRouteInput,
): StepsRoute & { readonly writeRequest: (request: StepsRequest) => string } {
  const { name, handler, route, options, source, clock } = input;
  return {
    handler: name,
    route,
    options,
    runAttempt: (claim, request, signal) =>
      runAttempt({ source, clock, options }, handler, claim, request, signal),
    readRequest: (stored) => deserialise(stored) as StepsRequest,
    writeRequest: serialise,
  };
}
