/**
 * `oncekey release`, `resolve`, `retry` and `forget`: what operators do to a key. Owns: saying why something is refused. Every
 * one of them is decided by the store in one statement; what is looked at here is only there to be explained.
 */
import type { KeyRecord, Operations, Settler } from "../index.js";
import type { InspectedKey } from "../ops.js";
import { withPlace } from "./connect.js";
import type { OpenPlace, PlaceOptions } from "./connect.js";
import { CommandError, exitCodes } from "./exit.js";
import { explain, findKey } from "./find-key.js";
import type { KeyOptions } from "./find-key.js";
import { readReply } from "./reply-file.js";
import { print, printJson } from "./words.js";

export interface SettleOptions extends PlaceOptions, KeyOptions {
  readonly settler: Settler;
}

export interface CompletedOptions {
  /** `-` is standard input. */
  readonly file: string;
  readonly replayWindowMs: number;
  readonly dedupeWindowMs: number;
}

export interface ForgetOptions extends SettleOptions {
  readonly redisUrl: string | undefined;
  readonly redisPrefix: string;
}

/** Gives a key back: its work is known not to have been done. */
export async function runNotExecuted(options: SettleOptions): Promise<void> {
  const outcome =
    "is free again: the next request with it runs. A steps request goes on after its finished steps";
  await settle(options, outcome, (operations, observed) =>
    operations.resolveNotExecuted(observed, options.settler),
  );
}

export async function runCompleted(
  options: SettleOptions,
  completed: CompletedOptions,
): Promise<void> {
  const response = await readReply(completed.file);
  await settle(
    options,
    `is completed: every retry is answered with that ${response.status}`,
    (operations, observed) =>
      operations.resolveCompleted(observed, response, completed, options.settler),
  );
}

export async function runRetry(options: SettleOptions): Promise<void> {
  await settle(
    options,
    "is due now, with all its attempts before it: a completer takes it",
    (operations, observed) => operations.retry(observed, options.settler),
  );
}

async function settle(
  options: SettleOptions,
  outcome: string,
  work: (operations: Operations, observed: KeyRecord) => Promise<"ok" | "refused">,
): Promise<void> {
  await withPlace(options, async (place) => {
    const found = await findKey(place, options);
    const observed = await place.store.find(found);
    const answer =
      observed === undefined ? "refused" : await work(operationsOf(place), observed.record);
    // Looked at again: what refuses it may have come in between.
    if (answer === "refused")
      throw refusal(await findKey(place, { ...options, scope: found.scope }));
    report(options, found, outcome);
  });
}

/** Erases the response of a key, here and in the cache, and keeps the key. */
export async function runForget(options: ForgetOptions): Promise<void> {
  await withPlace(options, async (place) => {
    const found = await findKey(place, options);
    const answer = await operationsOf(place).forget(found, options.settler);
    const now = await findKey(place, { ...options, scope: found.scope });
    // Also where it was forgotten before: the last try may have failed at the cache.
    if (answer === "refused" && now.state !== "forgotten") throw refusal(now);
    const cache = await forgetCached(options, found);
    const messages = Object.values(now.messages).reduce((sum, count) => sum + count, 0);
    const left =
      messages === 0
        ? ""
        : `\n${messages} of its messages are in the outbox, with their payloads; finished ones go after the worker's keepDeliveredMs.`;
    report(options, found, `is forgotten; ${cache}. Retries are answered key_expired.${left}`);
  });
}

async function forgetCached(
  { redisUrl, redisPrefix }: ForgetOptions,
  { scope, key }: InspectedKey,
): Promise<string> {
  if (redisUrl === undefined)
    return "no --redis-url or REDIS_URL was given, so that no cache was cleared";
  const { withRedis } = await import("./connect-redis.js");
  const { redisCache } = await import("../stores/redis.js");
  try {
    await withRedis(redisUrl, (client) =>
      redisCache({ client, prefix: redisPrefix }).forget({ scope, key }),
    );
    return "the cache is cleared";
  } catch (error) {
    const words = error instanceof Error ? error.message : String(error);
    throw new CommandError(
      exitCodes.failed,
      `The response is erased from Postgres, and the cache in Redis could not be cleared (${words}). ` +
        "Its copy may be there until the replay window ends. Run the same command again.",
    );
  }
}

function operationsOf({ store }: OpenPlace): Operations {
  if (store.operations === undefined) throw new TypeError("the store has no operations");
  return store.operations;
}

function refusal(found: InspectedKey): CommandError {
  const why =
    found.response !== undefined || found.standing === "not_stored" || found.standing === "expired"
      ? "Refused: a client may have seen its response, and no other answer may follow. "
      : "Refused. ";
  return new CommandError(exitCodes.failed, why + explain(found));
}

function report(options: PlaceOptions, { scope, key }: InspectedKey, outcome: string): void {
  if (options.json) printJson({ outcome: "ok", scope, key });
  else print(`The key ${key} in scope ${scope} ${outcome}`);
}
