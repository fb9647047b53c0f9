/**
 * Which headers of a response belong to the record. Owns: the difference between what the handler said and what every
 * response of the app says.
 */
import type { OutgoingHttpHeader, ServerResponse } from "node:http";
import type { StoredHeader, StoredResponse } from "../core/record.js";
import { storesByDefault } from "../core/stored-headers.js";
import type { StoresHeader } from "../core/stored-headers.js";

/** The headers of a response at one moment: lower-case name to name in its own case, and value. */
export type HeaderSnapshot = ReadonlyMap<
  string,
  { readonly name: string; readonly value: OutgoingHttpHeader }
>;

export function takeHeaders(res: ServerResponse): HeaderSnapshot {
  const snapshot = new Map<string, { name: string; value: OutgoingHttpHeader }>();
  for (const name of rawNames(res)) {
    const value = res.getHeader(name);
    if (value === undefined) continue;
    // A copy: appendHeader adds to a list in place.
    const copy = Array.isArray(value) ? [...value] : value;
    snapshot.set(name.toLowerCase(), { name, value: copy });
  }
  return snapshot;
}

/** What the last response began with. */
let lastBefore: HeaderSnapshot = new Map();

/**
 * As {@link takeHeaders}, of a response that begins. Most of an app begin with the same headers, and share what is kept of them as long
 * as they are under way.
 */
export function takeHeadersBefore(res: ServerResponse): HeaderSnapshot {
  if (!isLikeLast(res)) lastBefore = takeHeaders(res);
  return lastBefore;
}

function isLikeLast(res: ServerResponse): boolean {
  const names = rawNames(res);
  if (names.length !== lastBefore.size) return false;
  let index = 0;
  for (const { name, value } of lastBefore.values()) {
    // Of lists there are copies, which are nobody else's: one that has any is never like another.
    if (names[index] !== name || res.getHeader(name) !== value) return false;
    index += 1;
  }
  return true;
}

/** What the handler added or changed, and what it took away. */
export function headersOfHandler(
  before: HeaderSnapshot,
  after: HeaderSnapshot,
  bodyBytes: number,
  stores: StoresHeader = storesByDefault,
): Pick<StoredResponse, "headers" | "removedHeaders"> {
  const headers: StoredHeader[] = [];
  for (const [lower, { name, value }] of after) {
    if (!stores(lower) || sameValue(before.get(lower)?.value, value)) continue;
    // A length that is not the body's would break the framing of every replay.
    if (lower === "content-length" && Number(value) !== bodyBytes) continue;
    headers.push([name, Array.isArray(value) ? value.map(String) : String(value)]);
  }
  const removed = [...before].filter(([lower]) => !after.has(lower) && stores(lower));
  return removed.length === 0
    ? { headers }
    : { headers, removedHeaders: removed.map(([, { name }]) => name) };
}

/** Puts a response's headers back to an earlier moment. */
export function resetHeaders(res: ServerResponse, to: HeaderSnapshot): void {
  for (const name of res.getHeaderNames()) res.removeHeader(name);
  for (const { name, value } of to.values()) res.setHeader(name, value);
}

/**
 * Puts the headers of a response into the order in which a replay has them: first those of before, then what is stored, then
 * what is not. A handler that took a header of before away and set it again would else tell them in another order.
 */
export function orderAsReplayed(
  res: ServerResponse,
  before: HeaderSnapshot,
  stored: readonly StoredHeader[],
): void {
  if (!stored.some(([name]) => before.has(name.toLowerCase()))) return;
  const now = takeHeaders(res);
  for (const { name } of now.values()) res.removeHeader(name);
  const ordered = [...before.keys(), ...stored.map(([name]) => name.toLowerCase()), ...now.keys()];
  for (const lower of ordered) {
    const header = now.get(lower);
    if (header !== undefined) res.setHeader(header.name, header.value);
  }
}

/** What Node keeps of headers that were taken away: it then adds none of its own in their place. */
interface Removals {
  _removedConnection?: boolean;
  _removedContLen?: boolean;
  _removedTE?: boolean;
}

/** A bit for each kind of removal. */
export function takeRemovals(res: ServerResponse & Removals): number {
  return (
    (res._removedConnection ? 1 : 0) | (res._removedContLen ? 2 : 0) | (res._removedTE ? 4 : 0)
  );
}

/**
 * Makes Node forget the removals since. A header that was only taken away to be set again, or by one whose response is not sent,
 * would else leave the response without a length, and on some connections without an end.
 */
export function resetRemovals(res: ServerResponse & Removals, to: number): void {
  res._removedConnection = (to & 1) !== 0;
  res._removedContLen = (to & 2) !== 0;
  res._removedTE = (to & 4) !== 0;
}

/** Documented for client requests only, and there for every outgoing message. */
function rawNames(res: ServerResponse): readonly string[] {
  return (res as ServerResponse & { getRawHeaderNames(): string[] }).getRawHeaderNames();
}

function sameValue(before: OutgoingHttpHeader | undefined, after: OutgoingHttpHeader): boolean {
  if (before === undefined) return false;
  if (Array.isArray(before) || Array.isArray(after))
    return JSON.stringify(before) === JSON.stringify(after);
  return String(before) === String(after);
}

/** https://html.spec.whatwg.org/multipage/server-sent-events.html: a response of this type has no end of its own. */
export function isEventStream(res: ServerResponse): boolean {
  const type = res.getHeader("Content-Type");
  return typeof type === "string" && /^\s*text\/event-stream\s*(;|$)/i.test(type);
}
