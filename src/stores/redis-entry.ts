/**
 * Names and values in Redis. Owns: their layout, version 1, which the Lua scripts share.
 *
 *   v1 running <claim id> <fingerprint>
 *   v1 completed <length>:<epoch><field hashes>\n<record>\n<body>
 *   v1 forgotten
 *
 * One packed string a key: a replay is one GET, its epoch is compared inside Redis, and the body travels as raw bytes. Field hashes
 * and record are JSON on one line each. The hashes come first: were there ever a line end in them, what follows would be no record.
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
  const { body, ...response } = record.response;
  const packed: PackedRecord = {
    claimId: record.claimId,
    token: record.token,
    attempt: record.attempt,
    guarantee: record.guarantee,
    fingerprint: record.fingerprint,
    method: record.method,
    path: record.path,
    requestId: record.requestId,
    dedupeUntilMs: record.dedupeUntilMs,
    replayUntilMs: record.replayUntilMs,
    response,
  };
  // JSON escapes line ends, so that one ends the record.
  const head = `${record.fieldHashes}\n${JSON.stringify(packed)}\n`;
  return Buffer.concat([Buffer.from(completedStart(entry.epoch) + head), body]);
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
  const hashesEnd = value.indexOf(lineEnd, start);
  const end = hashesEnd < 0 ? -1 : value.indexOf(lineEnd, hashesEnd + 1);
  if (end < 0) throw new SyntaxError("a completed entry without an end of its record");
  const packedText = value.toString("utf8", hashesEnd + 1, end);
  const { response, ...packed } = JSON.parse(packedText) as PackedRecord;
  return {
    record: {
      scope: ref.scope,
      key: ref.key,
      state: "completed",
      leaseUntilMs: undefined,
      nextAttemptMs: undefined,
      notStored: false,
      ...packed,
      fieldHashes: value.toString("utf8", start, hashesEnd),
      dedupeUntilMs: packed.dedupeUntilMs,
      // Copied: the bytes are a window on what the driver received, which would stay in memory as long as the body does.
      response: { ...response, body: Buffer.from(value.subarray(end + 1)) },
    },
    nowMs: packed.replayUntilMs - leftMs,
  };
}
