/**
 * Parameters and rows of claim.sql, tx-claim.sql and take-over.sql: how plain and transaction routes claim.
 */
import type { ClaimAnswer } from "../core/ports.js";
import type { ClaimRequest, KeyRecord } from "../core/record.js";
import { lockHash, toObservation } from "./rows.js";
import type { KeyRow } from "./rows.js";

/** A row of claim.sql: all columns of the key where it exists, else nulls. */
export type ClaimRow = (KeyRow | { readonly [Column in keyof KeyRow]: null }) & {
  readonly new_token: string | null;
  readonly granted: boolean | null;
  readonly now: Date;
};

export function claimValues(schema: string, requests: readonly ClaimRequest[]): unknown[] {
  return [
    requests.map((request) => request.scope),
    requests.map((request) => request.key),
    requests.map((request) => lockHash(schema, request)),
    requests.map((request) => request.claimId),
    requests.map((request) => request.guarantee),
    requests.map((request) => request.fingerprint),
    requests.map((request) => JSON.stringify(request.fieldHashes)),
    requests.map((request) => request.method),
    requests.map((request) => request.path),
    requests.map((request) => request.requestId),
    requests.map((request) => request.leaseMs),
    requests.map((request) => request.steps?.handler ?? null),
    requests.map((request) => request.steps?.request ?? null),
  ];
}

/** Of tx-claim.sql, which claims one key. */
export function txClaimValues(schema: string, request: ClaimRequest): unknown[] {
  return [
    request.scope,
    request.key,
    lockHash(schema, request),
    request.claimId,
    request.guarantee,
    request.fingerprint,
    JSON.stringify(request.fieldHashes),
    request.method,
    request.path,
    request.requestId,
    request.leaseMs,
  ];
}

export function takeOverValues(
  schema: string,
  request: ClaimRequest,
  observed: KeyRecord,
): unknown[] {
  return [
    request.scope,
    request.key,
    lockHash(schema, request),
    request.claimId,
    request.guarantee,
    request.fingerprint,
    JSON.stringify(request.fieldHashes),
    request.method,
    request.path,
    request.requestId,
    request.leaseMs,
    observed.token,
    request.steps?.handler ?? null,
    request.steps?.request ?? null,
  ];
}

/** `unseen`: the key was committed after the statement's snapshot; read it in a new statement. */
export function readClaimRow(
  request: ClaimRequest,
  row: ClaimRow,
): ClaimAnswer | { readonly kind: "unseen" } {
  if (row.new_token !== null) {
    const { scope, key, claimId } = request;
    return {
      kind: "claimed",
      claim: { scope, key, claimId, token: Number(row.new_token), attempt: 1 },
    };
  }
  if (row.state !== null) return { kind: "exists", ...toObservation(row) };
  return row.granted === true ? { kind: "unseen" } : { kind: "locked" };
}
