/**
 * Parameters and rows of claim.sql, tx-claim.sql and take-over.sql: how plain and transaction routes claim.
 */
import type { ClaimAnswer } from "../core/ports.js";
import type { ClaimRequest, KeyRecord } from "../core/record.js";
import { doubleArray, hashArray, InvalidElement, textArray, uuidArray } from "./binary-array.js";
import { lockHash, recordLength, toObservation } from "./rows.js";
import type { RecordValues } from "./rows.js";

export function claimValues(schema: string, requests: readonly ClaimRequest[]): unknown[] {
  return [
    textArray(requests.map((request) => request.scope)),
    textArray(requests.map((request) => request.key)),
    hashArray(requests.map((request) => lockHash(schema, request))),
    uuidArray(requests.map((request) => request.claimId)),
    textArray(requests.map((request) => request.guarantee)),
    textArray(madeNow(requests, ({ fingerprint }) => fingerprint.text)),
    textArray(madeNow(requests, ({ fingerprint }) => fingerprint.fieldHashes)),
    textArray(requests.map((request) => request.method)),
    textArray(requests.map((request) => request.path)),
    textArray(requests.map((request) => request.requestId)),
    doubleArray(requests.map((request) => request.leaseMs)),
    textArray(requests.map((request) => request.steps?.handler ?? null)),
    textArray(requests.map((request) => request.steps?.request ?? null)),
  ];
}

/** What is made when it is read, for the requests of one batch together. One that cannot be made fails by itself. */
function madeNow(
  requests: readonly ClaimRequest[],
  make: (request: ClaimRequest) => string,
): readonly string[] {
  try {
    return requests.map(make);
  } catch (cause) {
    throw new InvalidElement("a request has no fingerprint", { cause });
  }
}

/** What a record says of its request, from the guarantee to the request id, as statements of one key take it. */
export function askedValues(request: ClaimRequest): readonly string[] {
  const { guarantee, fingerprint, method, path, requestId } = request;
  return [guarantee, fingerprint.text, fingerprint.fieldHashes, method, path, requestId];
}

/** Of tx-claim.sql, which claims one key. */
export function txClaimValues(schema: string, request: ClaimRequest): unknown[] {
  return [
    request.scope,
    request.key,
    lockHash(schema, request),
    request.claimId,
    ...askedValues(request),
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
    ...askedValues(request),
    request.leaseMs,
    observed.token,
    request.steps?.handler ?? null,
    request.steps?.request ?? null,
  ];
}

/**
 * What claim.sql answered to each request. `unseen`: the key was committed after the statement's snapshot; read it in a new
 * statement.
 */
export function readClaims(
  requests: readonly ClaimRequest[],
  rows: readonly RecordValues[],
): (ClaimAnswer | { readonly kind: "unseen" })[] {
  const answers = requests.map((): ClaimAnswer | { readonly kind: "unseen" } => unseen);
  for (const row of rows) {
    const [slot, claimed = null, refused = null] = row.slice(recordLength);
    if (Number(slot) !== 0) {
      answers[Number(slot) - 1] = { kind: "exists", ...toObservation(row) };
      continue;
    }
    const tokens = new Map(list(claimed).map((made) => [made.slice(0, uuidLength), made]));
    requests.forEach(({ scope, key, claimId }, index) => {
      const made = tokens.get(claimId);
      if (made === undefined) return;
      const token = Number(made.slice(uuidLength + 1));
      answers[index] = { kind: "claimed", claim: { scope, key, claimId, token, attempt: 1 } };
    });
    for (const taken of list(refused)) answers[Number(taken) - 1] = { kind: "locked" };
  }
  return answers;
}

const unseen = { kind: "unseen" } as const;
const uuidLength = 36;

function list(joined: string | null): string[] {
  return joined === null ? [] : joined.split(",");
}
