/**
 * Names and values in Redis. Owns: their layout, version 1, which the Lua scripts share.
 *
 *   v1 running <claim id> <fingerprint>
 *   v1 completed <length>:<epoch><record as JSON, one line>\n<body>
 *   v1 forgotten
 *
 * One packed string a key: a replay is one GET, its epoch is compared inside Redis, and the body travels as raw bytes.
 */
import { nameOf } from "../core/key.js";
import type { CacheEntry } from "../core/ports.js";
import type { KeyRecord, KeyRef, Observation, StoredResponse } from "../core/record.js";

/** What differs from one completed record to the next, without what the key, the state or the body says already. */
type PackedRecord = Pick<
  KeyRecord,
  | "claimId"
  | "token"
  | "attempt"
  | "guarantee"
  | "fingerprint"
  | "fieldHashes"
  | "method"
  | "path"
  | "requestId"
  | "dedupeUntilMs"
> & { readonly replayUntilMs: number; readonly response: Omit<StoredResponse, "body"> };

const lineEnd = 0x0a;

/**
 * The name of a key's entry. Length-prefixed, so that no two pairs of scope and key look the same; in braces, so that
 * whatever is stored beside the entry one day lies in the same slot of a Redis Cluster.
 */
export function entryName(prefix: string, ref: KeyRef): string {
  return `${prefix}v1:{${nameOf(ref)}}`;
}

/** How a claimer's marker begins. */
export function markerStart(claimId: string): string {
  return `v1 running ${claimId} `;
}

/** How a completed entry of an epoch begins. The length keeps one epoch from being the beginning of another. */
export function completedStart(epoch: string): string {
  return `v1 completed ${epoch.length}:${epoch}`;
}

/** A completed record as bytes; undefined where its replay window has no end to derive a life from. */
export function packCompleted(entry: CacheEntry): Buffer | undefined {
  const { record } = entry;
  if (record.replayUntilMs === undefined) return undefined;
  const { body, ...head } = record.response;
  const packed: PackedRecord = {
    claimId: record.claimId,
    token: record.token,
    attempt: record.attempt,
    guarantee: record.guarantee,
    fingerprint: record.fingerprint,
    fieldHashes: record.fieldHashes,
    method: record.method,
    path: record.path,
    requestId: record.requestId,
    dedupeUntilMs: record.dedupeUntilMs,
    replayUntilMs: record.replayUntilMs,
    response: head,
  };
  // JSON escapes line ends, so the first one ends the record.
  return Buffer.concat([
    Buffer.from(`${completedStart(entry.epoch)}${JSON.stringify(packed)}\n`),
    body,
  ]);
}

/**
 * Reads a completed entry. Its time of reading is derived from the life that Redis says is left, so that what remains of
 * the replay window is right without any clock of this process.
 *
 * @throws SyntaxError when the bytes are not what {@link packCompleted} wrote
 */
export function unpackCompleted(
  ref: KeyRef,
  epoch: string,
  value: Buffer,
  leftMs: number,
): Observation {
  const start = Buffer.byteLength(completedStart(epoch));
  const end = value.indexOf(lineEnd, start);
  if (end < 0) throw new SyntaxError("a completed entry without an end of its record");
  const { response, ...packed } = JSON.parse(value.toString("utf8", start, end)) as PackedRecord;
  return {
    record: {
      scope: ref.scope,
      key: ref.key,
      state: "completed",
      leaseUntilMs: undefined,
      nextAttemptMs: undefined,
      notStored: false,
      ...packed,
      dedupeUntilMs: packed.dedupeUntilMs,
      // Copied: the bytes are a window on what the driver received, which would stay in memory as long as the body does.
      response: { ...response, body: Buffer.from(value.subarray(end + 1)) },
    },
    nowMs: packed.replayUntilMs - leftMs,
  };
}
