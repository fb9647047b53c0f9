/**
 * The key that an operator means. Owns: the scope where none was given, and what is said where there is no such key.
 */
import { inspect, scopesOf, settlementsOf } from "../ops.js";
import type { InspectedKey, Standing } from "../ops.js";
import type { OpenPlace } from "./connect.js";
import { CommandError, exitCodes, usageError } from "./exit.js";
import { duration, plain } from "./words.js";

export interface KeyOptions {
  readonly key: string;
  readonly scope: string | undefined;
}

/** @throws CommandError: not found, or in several scopes. */
export async function findKey(
  place: OpenPlace,
  { key, scope: given }: KeyOptions,
  showBody = false,
): Promise<InspectedKey> {
  const scope = given ?? (await onlyScope(place, key));
  const found = await inspect(place, { scope, key }, { showBody });
  if (found !== undefined) return found;
  const settled = await settlementsOf(place, { scope, key });
  const history = settled.map(
    ({ outcome, by, why, at }) =>
      `\n  ${at.toISOString()} ${outcome} by ${plain(by)}: ${plain(why)}`,
  );
  throw new CommandError(
    exitCodes.notFound,
    `There is no key ${key} in scope ${scope}: it was never sent, was given back, or is not remembered any more.` +
      (history.length === 0 ? "" : ` What was done to it:${history.join("")}`),
  );
}

async function onlyScope(place: OpenPlace, key: string): Promise<string> {
  const scopes = await scopesOf(place, key);
  const [scope] = scopes;
  if (scope === undefined)
    throw new CommandError(exitCodes.notFound, `There is no key ${key} in any scope.`);
  if (scopes.length > 1) {
    const list = scopes.map((each) => `\n  --scope ${JSON.stringify(each)}`).join("");
    throw usageError(`The key ${key} is in ${scopes.length} scopes. Say which one:${list}`);
  }
  return scope;
}

const explanations: Readonly<Record<Standing, (found: InspectedKey) => string>> = {
  living: ({ leaseLeftMs = 0 }) =>
    `Its holder lives: the claim is believed for ${duration(leaseLeftMs)} more. Nothing to do.`,
  abandoned: ({ guarantee }) =>
    guarantee === "steps"
      ? "Abandoned: the completer, or a retry, goes on at the last recovery point. Nothing to do."
      : "Abandoned: a retry runs it again, as the route allows. Nothing to do.",
  unknown: () =>
    "Its process went away in the middle of the work, and nobody knows how far it came. Find out, then: oncekey resolve.",
  waiting: ({ nextAttemptInMs = 0 }) =>
    `Its last attempt failed. The next one is due in ${duration(Math.max(0, nextAttemptInMs))}; oncekey retry makes it due now.`,
  set_aside: () =>
    "Given up after its last attempt failed. Mend the cause, then: oncekey retry. Or oncekey resolve.",
  replayed: () => "Its response is replayed to every retry. Nothing to do.",
  not_stored: () =>
    "Done, and its response was too large to be kept or was a stream; retries are answered response_not_stored.",
  expired: () => "Done, and its response is gone; retries are answered key_expired and never run.",
  over: () => "Not remembered any more: the next request with this key runs.",
};

/** How a key stands, and what can be done about it. */
export function explain(found: InspectedKey): string {
  return explanations[found.standing](found);
}
