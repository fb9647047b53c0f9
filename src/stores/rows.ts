/**
 * Rows of idempotency_keys as records and back. Owns: the one place where SQL's names become camelCase.
 */
import { hash } from "node:crypto";
import { nameOf } from "../core/key.js";
import type {
  Guarantee,
  KeyRecord,
  KeyRef,
  KeyState,
  Observation,
  StoredHeader,
  StoredResponse,
} from "../core/record.js";

/** All columns, as pg reads them. */
export interface KeyRow {
  readonly scope: string;
  readonly key: string;
  readonly state: KeyState;
  readonly guarantee: Guarantee;
  readonly claim_id: string;
  readonly token: string;
  readonly attempt: number;
  readonly lease_until: Date | null;
  readonly next_attempt_at: Date | null;
  readonly fingerprint: string;
  readonly field_hashes: Record<string, string>;
  readonly method: string;
  readonly path: string;
  readonly request_id: string;
  readonly not_stored: boolean;
  readonly status: number | null;
  readonly head: ResponseHead | null;
  readonly body: Buffer | null;
  readonly replay_until: Date | null;
  readonly dedupe_until: Date | null;
  readonly handler: string | null;
  readonly request: unknown;
  readonly last_error: string | null;
  /** The server's clock when the row was read. */
  readonly now: Date;
}

/** What of a response is stored as JSON, beside its status and body. */
export interface ResponseHead {
  readonly statusMessage?: string;
  readonly headers: readonly StoredHeader[];
  readonly removedHeaders?: readonly string[];
}

export function toObservation(row: KeyRow): Observation {
  return { record: toRecord(row), nowMs: row.now.getTime() };
}

function toRecord(row: KeyRow): KeyRecord {
  return {
    scope: row.scope,
    key: row.key,
    state: row.state,
    claimId: row.claim_id,
    token: Number(row.token),
    attempt: row.attempt,
    guarantee: row.guarantee,
    fingerprint: row.fingerprint,
    fieldHashes: row.field_hashes,
    method: row.method,
    path: row.path,
    requestId: row.request_id,
    leaseUntilMs: row.lease_until?.getTime(),
    nextAttemptMs: row.next_attempt_at?.getTime(),
    notStored: row.not_stored,
    response: toResponse(row),
    replayUntilMs: row.replay_until?.getTime(),
    dedupeUntilMs: row.dedupe_until?.getTime(),
    steps:
      row.handler === null || row.request === null
        ? undefined
        : { handler: row.handler, request: row.request },
    lastError: row.last_error ?? undefined,
  };
}

function toResponse(row: KeyRow): StoredResponse | undefined {
  if (row.status === null || row.head === null || row.body === null) return undefined;
  return { status: row.status, ...row.head, body: row.body };
}

/** The JSON part of a response. */
export function toHead(response: StoredResponse): string {
  const { statusMessage, headers, removedHeaders } = response;
  const head: ResponseHead = {
    headers,
    ...(statusMessage === undefined ? {} : { statusMessage }),
    ...(removedHeaders === undefined ? {} : { removedHeaders }),
  };
  return JSON.stringify(head);
}

/**
 * 64 bits of (schema, scope, key) for the advisory lock, as a signed decimal. Two keys with the same bits cost a retry and
 * nothing else: the primary key decides.
 */
export function lockHash(schema: string, ref: KeyRef): string {
  return hash64(`oncekey:${schema.length}:${schema}${nameOf(ref)}`);
}

/** As {@link lockHash}, for the advisory lock by which waiters say that they wait. Claimers never take it. */
export function waitHash(schema: string, ref: KeyRef): string {
  return hash64(`oncekey-wait:${schema.length}:${schema}${nameOf(ref)}`);
}

function hash64(text: string): string {
  return hash("sha256", text, "buffer").readBigInt64BE(0).toString();
}
