/**
 * All that is known of one key, for a person who has to decide about it. Owns: what may be shown. Must never show a value of
 * the request, the result of a step or a payload; the body of the response only where it was asked for.
 */
import type { Guarantee, KeyRef, KeyState } from "../core/record.js";
import type { StepKind } from "../core/steps-port.js";
import type { ResponseHead } from "../stores/rows.js";
import { read } from "./place.js";
import type { OpsPlace } from "./place.js";

/** What is to be done about a key; `living`: nothing, its holder is at it. */
export type Standing =
  | "living"
  /** Its process died or is frozen, and a retry or the completer goes on with it. */
  | "abandoned"
  /** Its process died or is frozen, and nobody may run it again: to be resolved. */
  | "unknown"
  /** Waits for its next attempt. */
  | "waiting"
  /** Given up after its last attempt: to be retried or resolved. */
  | "set_aside"
  /** Its response is replayed. */
  | "replayed"
  /** Done, and the response was too large to be stored or was a stream. */
  | "not_stored"
  /** Done, and the response is gone: retries are answered `key_expired`. */
  | "expired"
  /** Not remembered any more; the next request runs. */
  | "over";

export interface InspectedResponse {
  readonly status: number;
  readonly statusMessage?: string;
  readonly headers: ResponseHead["headers"];
  readonly bodyBytes: number;
  /** Only where it was asked for. */
  readonly body?: Buffer;
}

export interface InspectedKey extends KeyRef {
  readonly state: KeyState;
  readonly standing: Standing;
  readonly guarantee: Guarantee;
  readonly method: string;
  readonly path: string;
  /** Of the first execution. */
  readonly requestId: string;
  readonly claim: { readonly id: string; readonly token: number; readonly attempt: number };
  /** While running: how long the claim is still believed, in ms; below 0 it is over. */
  readonly leaseLeftMs: number | undefined;
  /** While parked and not set aside: how long until the next attempt, in ms. */
  readonly nextAttemptInMs: number | undefined;
  /** Steps routes: which handler goes on, attempts that failed, and the words of the last one. */
  readonly handler: string | undefined;
  readonly failures: number;
  readonly lastError: string | undefined;
  readonly createdAt: Date;
  readonly completedAt: Date | undefined;
  readonly replayUntil: Date | undefined;
  readonly dedupeUntil: Date | undefined;
  readonly response: InspectedResponse | undefined;
  readonly steps: readonly InspectedStep[];
  readonly settlements: readonly Settlement[];
  /** Messages of the key by their state. */
  readonly messages: Readonly<Record<string, number>>;
}

export interface InspectedStep {
  readonly position: number;
  readonly name: string;
  readonly kind: StepKind;
  readonly state: "intended" | "done";
  readonly recordedAt: Date;
}

export interface Settlement {
  readonly outcome: string;
  readonly by: string;
  readonly why: string;
  readonly at: Date;
}

interface InspectRow {
  readonly state: KeyState;
  readonly guarantee: Guarantee;
  readonly claim_id: string;
  readonly token: string;
  readonly attempt: number;
  readonly lease_until_ms: number | null;
  readonly next_attempt_at_ms: number | null;
  readonly method: string;
  readonly path: string;
  readonly request_id: string;
  readonly not_stored: boolean;
  readonly status: number | null;
  readonly head: ResponseHead | null;
  readonly body_bytes: number | null;
  /** As base64. */
  readonly body: string | null;
  readonly created_at_ms: number;
  readonly completed_at_ms: number | null;
  readonly replay_until_ms: number | null;
  readonly dedupe_until_ms: number | null;
  readonly handler: string | null;
  readonly failures: number;
  readonly last_error: string | null;
  readonly now_ms: number;
}

/** More than these are not told apart by eye. */
const mostScopes = 20;

/** The scopes in which a key exists, up to 20. Reads a whole index: for people. */
export async function scopesOf(place: OpsPlace, key: string): Promise<readonly string[]> {
  const rows = await read<{ scope: string }>(place, "scopes-of", [key, mostScopes]);
  return rows.map((row) => row.scope);
}

/** Reads a key, or undefined where there is none. */
export async function inspect(
  place: OpsPlace,
  ref: KeyRef,
  { showBody = false }: { readonly showBody?: boolean } = {},
): Promise<InspectedKey | undefined> {
  const where = [ref.scope, ref.key];
  const [row] = await read<InspectRow>(place, "inspect", [...where, showBody]);
  if (row === undefined) return undefined;
  const steps = await read<Omit<InspectedStep, "recordedAt"> & { recorded_at_ms: number }>(
    place,
    "steps-list",
    where,
  );
  const messages = await read<{ state: string; messages: number }>(place, "outbox-of-key", where);
  return {
    scope: ref.scope,
    key: ref.key,
    ...toKey(row),
    steps: steps.map(({ recorded_at_ms, ...step }) => ({
      ...step,
      recordedAt: new Date(recorded_at_ms),
    })),
    settlements: await settlementsOf(place, ref),
    messages: Object.fromEntries(messages.map((found) => [found.state, found.messages])),
  };
}

/** Who settled a key, how and why; also of a key that does not exist any more. */
export async function settlementsOf(
  place: OpsPlace,
  { scope, key }: KeyRef,
): Promise<readonly Settlement[]> {
  const rows = await read<{
    outcome: string;
    settled_by: string;
    why: string;
    settled_at_ms: number;
  }>(place, "settlements", [scope, key]);
  return rows.map((row) => ({
    outcome: row.outcome,
    by: row.settled_by,
    why: row.why,
    at: new Date(row.settled_at_ms),
  }));
}

function toKey(
  row: InspectRow,
): Omit<InspectedKey, "scope" | "key" | "steps" | "settlements" | "messages"> {
  const left = (untilMs: number | null): number | undefined =>
    untilMs === null ? undefined : untilMs - row.now_ms;
  const date = (ms: number | null): Date | undefined => (ms === null ? undefined : new Date(ms));
  return {
    state: row.state,
    standing: standingOf(row),
    guarantee: row.guarantee,
    method: row.method,
    path: row.path,
    requestId: row.request_id,
    claim: { id: row.claim_id, token: Number(row.token), attempt: row.attempt },
    leaseLeftMs: left(row.lease_until_ms),
    nextAttemptInMs: left(row.next_attempt_at_ms),
    handler: row.handler ?? undefined,
    failures: row.failures,
    lastError: row.last_error ?? undefined,
    createdAt: new Date(row.created_at_ms),
    completedAt: date(row.completed_at_ms),
    replayUntil: date(row.replay_until_ms),
    dedupeUntil: date(row.dedupe_until_ms),
    response: responseOf(row),
  };
}

function responseOf(row: InspectRow): InspectedResponse | undefined {
  if (row.status === null || row.head === null) return undefined;
  const { statusMessage, headers } = row.head;
  return {
    status: row.status,
    ...(statusMessage === undefined ? {} : { statusMessage }),
    headers,
    bodyBytes: row.body_bytes ?? 0,
    ...(row.body === null ? {} : { body: Buffer.from(row.body, "base64") }),
  };
}

/** As `decide()` would answer the same request at this moment. */
function standingOf(row: InspectRow): Standing {
  const isOver = (untilMs: number | null): boolean => untilMs !== null && untilMs <= row.now_ms;
  if (row.state === "running") {
    if (!isOver(row.lease_until_ms)) return "living";
    const goesOn = row.guarantee === "rerun" || row.guarantee === "steps";
    return goesOn && !row.not_stored ? "abandoned" : "unknown";
  }
  if (row.state === "parked") return row.next_attempt_at_ms === null ? "set_aside" : "waiting";
  if (isOver(row.dedupe_until_ms)) return "over";
  if (row.state === "forgotten") return "expired";
  if (row.not_stored) return "not_stored";
  return isOver(row.replay_until_ms) ? "expired" : "replayed";
}
