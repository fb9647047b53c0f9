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

/** What is read of each key, in this order. */
const columns = [
  "scope",
  "key",
  "state",
  "guarantee",
  "claim_id",
  "token",
  "attempt",
  "fingerprint",
  "field_hashes",
  "method",
  "path",
  "request_id",
  "not_stored",
  "status",
  "head",
  "body",
  "handler",
  "request",
  "last_error",
  "lease_until",
  "next_attempt_at",
  "replay_until",
  "dedupe_until",
  "now",
] as const;
type Column = (typeof columns)[number];

/**
 * How each is read, so that all of them are texts and none depends on a setting of the role or the database: times as ms since
 * 1970, the body as base64, which is shorter than what Postgres writes by itself and costs a third less to read here.
 */
const readings: Partial<Record<Column, (of: string) => string>> = {
  body: (of) => `encode(${of}.body, 'base64')`,
  lease_until: (of) => msOf(`${of}.lease_until`),
  next_attempt_at: (of) => msOf(`${of}.next_attempt_at`),
  replay_until: (of) => msOf(`${of}.replay_until`),
  dedupe_until: (of) => msOf(`${of}.dedupe_until`),
  // The server's clock when the row was read.
  now: () => msOf(":schema.idempotency_now()"),
};

function msOf(time: string): string {
  return `floor(extract(epoch FROM ${time}) * 1000)::text`;
}

/** What `:record(of)` stands for in SQL; `of` is a row of idempotency_keys. */
export function recordColumns(of: string): string {
  return columns
    .map((name) => `${readings[name]?.(of) ?? `${of}.${name}::text`} AS ${name}`)
    .join(", ");
}

/** The values of `:record()`, which come first in their row. */
export type RecordValues = readonly (string | null)[];

/** How many they are: what a statement answers beside them comes behind. */
export const recordLength = columns.length;

const at = Object.fromEntries(columns.map((name, index) => [name, index])) as Readonly<
  Record<Column, number>
>;

/** What of a response is stored as JSON, beside its status and body. */
export interface ResponseHead {
  readonly statusMessage?: string;
  readonly headers: readonly StoredHeader[];
  readonly removedHeaders?: readonly string[];
}

export function toObservation(row: RecordValues): Observation {
  return { record: toRecord(row), nowMs: Number(row[at.now]) };
}

function toRecord(row: RecordValues): KeyRecord {
  const text = (name: Column): string => row[at[name]] as string;
  const ms = (name: Column): number | undefined => {
    const value = row[at[name]] ?? undefined;
    return value === undefined ? undefined : Number(value);
  };
  const handler = row[at.handler];
  const request = row[at.request];
  return {
    scope: text("scope"),
    key: text("key"),
    state: text("state") as KeyState,
    claimId: text("claim_id"),
    token: Number(text("token")),
    attempt: Number(text("attempt")),
    guarantee: text("guarantee") as Guarantee,
    fingerprint: text("fingerprint"),
    fieldHashes: text("field_hashes"),
    method: text("method"),
    path: text("path"),
    requestId: text("request_id"),
    leaseUntilMs: ms("lease_until"),
    nextAttemptMs: ms("next_attempt_at"),
    notStored: text("not_stored") === "true",
    response: toResponse(row),
    replayUntilMs: ms("replay_until"),
    dedupeUntilMs: ms("dedupe_until"),
    steps:
      typeof handler === "string" && typeof request === "string"
        ? { handler, request: JSON.parse(request) as unknown }
        : undefined,
    lastError: row[at.last_error] ?? undefined,
  };
}

function toResponse(row: RecordValues): StoredResponse | undefined {
  const [status, head, body] = [row[at.status], row[at.head], row[at.body]];
  if (typeof status !== "string" || typeof head !== "string" || typeof body !== "string")
    return undefined;
  return {
    status: Number(status),
    ...(JSON.parse(head) as ResponseHead),
    body: Buffer.from(body, "base64"),
  };
}

/** The JSON part of a response. */
export function toHead(response: StoredResponse): string {
  const { statusMessage, headers, removedHeaders } = response;
  return JSON.stringify({ headers, statusMessage, removedHeaders });
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
