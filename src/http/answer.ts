/**
 * What a client is sent for what became of its key, as data. Owns: the headers that every answer for a key carries, and which
 * response belongs to which outcome. The adapters only write it.
 */
import { IdempotencyError } from "../core/errors.js";
import type { Completed, PlainRun } from "../core/plain-run.js";
import type { KeyRecord, StoredHeader, StoredResponse } from "../core/record.js";
import type { Outcome } from "../core/request.js";
import type { AdapterContext, Keyed } from "./context.js";
import { renderError } from "./problem.js";

type Headers = readonly StoredHeader[];

/** A response with the headers of ours that go with it. */
export interface Answer {
  readonly response: StoredResponse;
  readonly headers: Headers;
}

/** What leaves for a handler that has ended: its own response with these headers, or another one in its place. */
export type Settled =
  | {
      readonly kind: "own";
      readonly headers: Headers;
      /** End of the replay window; undefined where nothing was stored. */
      readonly replayUntilMs: number | undefined;
    }
  | { readonly kind: "instead"; readonly answer: Answer };

/** What the headers of a stored answer tell. */
export type KeptAnswer = Pick<KeyRecord, "requestId" | "replayUntilMs">;

type Told = Pick<AdapterContext<never>, "options">;

/** The headers that every answer for a key carries. */
export function keyHeaders(
  { options }: Told,
  keyed: Keyed,
  stored: KeptAnswer | undefined,
  retryable: boolean,
): StoredHeader[] {
  const headers: StoredHeader[] = [];
  if (keyed.sent !== undefined) headers.push(["Idempotency-Key", keyed.sent]);
  if (stored !== undefined) headers.push(["Original-Request", stored.requestId]);
  if (stored?.replayUntilMs !== undefined)
    headers.push(["Idempotency-Expires", httpDate(stored.replayUntilMs)]);
  if (options.dialect === "stripe") headers.push(["Stripe-Should-Retry", String(retryable)]);
  return headers;
}

const maxDates = 4_096;
const dates = new Map<number, string>();

/** RFC 9110, section 5.6.7. Kept, since responses of one second end in one second and replays come in bursts. */
function httpDate(ms: number): string {
  const second = Math.floor(ms / 1_000);
  const known = dates.get(second);
  if (known !== undefined) return known;
  if (dates.size >= maxDates) dates.clear();
  const text = new Date(ms).toUTCString();
  dates.set(second, text);
  return text;
}

/** The headers of a replay. */
export function replayHeaders(context: Told, keyed: Keyed, stored: KeptAnswer): StoredHeader[] {
  const headers = keyHeaders(context, keyed, stored, false);
  headers.push(["Idempotent-Replayed", "true"]);
  return headers;
}

/** The headers of a response that is not, or not yet, stored. */
export function unstoredHeaders(context: Told, keyed: Keyed): Headers {
  const first = { requestId: keyed.request.requestId, replayUntilMs: undefined };
  return [...keyHeaders(context, keyed, first, false), ["Idempotency-Stored", "false"]];
}

/** The headers of a request that the kill switch leaves unprotected. */
export function unprotectedHeaders(keyed: Keyed): Headers {
  const echo: Headers = keyed.sent === undefined ? [] : [["Idempotency-Key", keyed.sent]];
  return [...echo, ["Idempotency-Stored", "false"]];
}

/** A refusal of a request, whether or not its key could be read. */
export function refusal(context: Told, keyed: Keyed | undefined, error: IdempotencyError): Answer {
  return {
    response: renderError(error, context.options.dialect),
    headers: keyed === undefined ? [] : keyHeaders(context, keyed, undefined, error.retryable),
  };
}

/** A replay or a refusal. */
export function outcomeAnswer(context: Told, keyed: Keyed, outcome: Outcome): Answer {
  if (outcome.kind === "refuse") {
    const { response, headers } = refusal(context, keyed, outcome.error);
    return { response, headers: [...headers, ...waitHeaders(keyed, response)] };
  }
  context.options.onEvent({ type: "replayed" });
  const { response, record } = outcome;
  const headers = replayHeaders(context, keyed, record);
  headers.push(...waitHeaders(keyed, response));
  return { response, headers };
}

/** `Preference-Applied` (RFC 7240, section 3), unless the stored response says what was applied: that is never changed. */
function waitHeaders({ appliedWait }: Keyed, response: StoredResponse): Headers {
  if (appliedWait === undefined) return none;
  const isSaid = response.headers.some(([name]) => name.toLowerCase() === "preference-applied");
  return isSaid ? none : [["Preference-Applied", `wait=${appliedWait}`]];
}

const none: Headers = [];

/** The refusal that stands for an answer that must not be sent. */
export function refusalFor(code: "outcome_unknown" | "unavailable"): IdempotencyError {
  return code === "unavailable"
    ? new IdempotencyError("store_unavailable", { retryAfterSeconds: 1 })
    : new IdempotencyError("outcome_unknown");
}

/** Stores the response of a plain route and says what leaves. Never rejects. */
export async function settlePlain(
  context: Told,
  keyed: Keyed,
  run: PlainRun,
  response: StoredResponse,
): Promise<Settled> {
  return settled(context, keyed, await run.complete(response));
}

/** Gives the key of a plain route back. The key is free before the client hears, so that a retry that comes at once is not turned away. */
export async function giveBack(context: Told, keyed: Keyed, run: PlainRun): Promise<Headers> {
  await run.release();
  return keyHeaders(context, keyed, undefined, true);
}

function settled(context: Told, keyed: Keyed, completed: Completed): Settled {
  switch (completed.kind) {
    case "stored": {
      const { requestId } = keyed.request;
      const { replayUntilMs } = completed;
      const headers = keyHeaders(context, keyed, { requestId, replayUntilMs }, false);
      return { kind: "own", headers, replayUntilMs };
    }
    case "unstored":
      return { kind: "own", headers: unstoredHeaders(context, keyed), replayUntilMs: undefined };
    case "superseded": {
      const headers = replayHeaders(context, keyed, completed.record);
      return { kind: "instead", answer: { response: completed.response, headers } };
    }
    case "outcome_unknown":
    case "unavailable":
      return { kind: "instead", answer: refusal(context, keyed, refusalFor(completed.kind)) };
    default:
      return completed satisfies never;
  }
}

/** True for a refusal that the client is told as the dialect says; other errors are for the app's own error handler. */
export function isForClient(error: IdempotencyError): boolean {
  return error.status < 500 || error.code === "store_unavailable";
}

/** True where the author of a plain handler says of its response that nothing happened. */
export function saysNothingHappened(keyed: Keyed, status: number): boolean {
  const { releaseOn, serverErrors } = keyed.request.route;
  return releaseOn.includes(status) || (status >= 500 && serverErrors === "release");
}
