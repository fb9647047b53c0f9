/**
 * Web-standard responses. Owns: taking a handler's Response apart into what is stored, and putting one together, the same way
 * for the first client as for a replay. Must never read on in a response that is larger than may be held.
 */
import type { Clock } from "../core/clock.js";
import type { StoredHeader, StoredResponse } from "../core/record.js";
import type { StoresHeader } from "../core/stored-headers.js";
import type { Answer } from "./answer.js";
import { sendable } from "./head.js";
import type { HeaderSnapshot } from "./headers.js";
import { headersOfHandler } from "./headers.js";

type Ours = readonly StoredHeader[];

interface Head {
  readonly status: number;
  readonly statusText: string;
  readonly headers: Headers;
}

type Chunk = Awaited<ReturnType<ReadableStreamDefaultReader<Uint8Array>["read"]>>;

/** What is left of a body: chunks that were read, a read that is under way, and the reader. */
interface Rest {
  readonly held: Uint8Array[];
  next: Promise<Chunk> | undefined;
  readonly reader: ReadableStreamDefaultReader<Uint8Array>;
}

/** A handler's response, taken apart. */
export type Captured =
  | { readonly kind: "whole"; readonly head: Head; readonly response: StoredResponse }
  | {
      readonly kind: "unheld";
      readonly why: "large" | "stream";
      readonly head: Head;
      readonly rest: Rest;
    };

export type Whole = Extract<Captured, { kind: "whole" }>;
/** Larger than may be held, or a stream. */
export type Unheld = Extract<Captured, { kind: "unheld" }>;

export interface CaptureOptions {
  readonly maxBytes: number;
  /** The route says that its responses are streams. Server-sent events are streams without it. */
  readonly isStream: boolean;
  readonly stores: StoresHeader;
  readonly before: HeaderSnapshot;
  readonly clock: Clock;
}

/** @throws for what is no response that can be sent, and what the stream of its body fails with */
export async function capture(given: unknown, options: CaptureOptions): Promise<Captured> {
  const response = checked(given);
  const { before, stores } = options;
  const { status, statusText, headers } = response;
  const head = { status, statusText, headers: new Headers(headers) };
  const whole = (body: Uint8Array): Captured => {
    const kept = headersOfHandler(before, snapshotOf(headers), body.length, stores);
    const named = statusText === "" ? {} : { statusMessage: statusText };
    return { kind: "whole", head, response: { status, ...named, ...kept, body } };
  };
  if (response.body === null) return whole(new Uint8Array());
  const rest: Rest = { held: [], next: undefined, reader: response.body.getReader() };
  const isStream = options.isStream || isEventStream(headers);
  const ended = isStream ? await readAtOnce(rest, options) : await readUpTo(rest, options.maxBytes);
  return ended
    ? whole(joined(rest.held))
    : { kind: "unheld", why: isStream ? "stream" : "large", head, rest };
}

function checked(given: unknown): Response {
  // Not by instanceof: servers and frameworks bring Response classes of their own.
  const response = given as Partial<Response> | null | undefined;
  if (typeof response?.status !== "number" || typeof response.headers?.get !== "function")
    throw new TypeError("The handler did not return a Response.");
  if (response.status < 200)
    throw new TypeError(`A response of status ${response.status} cannot be sent for a key.`);
  if (response.bodyUsed === true || response.body?.locked === true)
    throw new TypeError(
      "The body of the handler's Response was read already. Return response.clone().",
    );
  return response as Response;
}

/** https://html.spec.whatwg.org/multipage/server-sent-events.html */
function isEventStream(headers: Headers): boolean {
  return /^\s*text\/event-stream\b/i.test(headers.get("content-type") ?? "");
}

/** False when the body has more bytes. */
async function readUpTo(rest: Rest, maxBytes: number): Promise<boolean> {
  let length = 0;
  for (;;) {
    const { done, value } = await rest.reader.read();
    if (done) return true;
    const bytes = toBytes(value);
    rest.held.push(bytes);
    length += bytes.length;
    if (length > maxBytes) return false;
  }
}

/** Reads what is there without waiting for anything outside: true for a text that only looks like a stream. */
async function readAtOnce(rest: Rest, { clock, maxBytes }: CaptureOptions): Promise<boolean> {
  const waited = new AbortController();
  const later = clock.sleep(0, waited.signal).then((): "later" => "later");
  let length = 0;
  try {
    for (;;) {
      rest.next = rest.reader.read();
      const chunk = await Promise.race([rest.next, later]);
      if (chunk === "later") return false;
      rest.next = undefined;
      if (chunk.done) return true;
      const bytes = toBytes(chunk.value);
      rest.held.push(bytes);
      length += bytes.length;
      if (length > maxBytes) return false;
    }
  } finally {
    waited.abort();
  }
}

function toBytes(chunk: unknown): Uint8Array {
  if (chunk instanceof Uint8Array) return chunk;
  throw new TypeError("The body of a Response must be a stream of Uint8Array chunks.");
}

function joined(chunks: readonly Uint8Array[]): Uint8Array {
  return chunks.length === 1 ? (chunks[0] as Uint8Array) : Buffer.concat(chunks);
}

/** As Node's responses show theirs; cookies are the one header that does not join. */
export function snapshotOf(headers: Headers): HeaderSnapshot {
  const snapshot = new Map<string, { name: string; value: string | string[] }>();
  for (const [name, value] of headers)
    snapshot.set(name, { name, value: name === "set-cookie" ? headers.getSetCookie() : value });
  return snapshot;
}

/** The handler's own response, from the bytes that were stored. */
export function ownResponse({ head, response }: Whole, ours: Ours): Response {
  const headers = new Headers(head.headers);
  // The whole body is at hand, so that its length frames it, in the first response as in every replay.
  headers.delete("transfer-encoding");
  headers.delete("trailer");
  const length = headers.get("content-length");
  if (length !== null && Number(length) !== response.body.length) headers.delete("content-length");
  return assemble(head.status, head.statusText, headers, response.body, ours);
}

/** A stored response, or a refusal. */
export function answerResponse(
  { response, headers: ours }: Answer,
  before: HeaderSnapshot,
): Response {
  const headers = new Headers();
  for (const { name, value } of before.values()) put(headers, name, value as string | string[]);
  for (const name of response.removedHeaders ?? []) headers.delete(name);
  for (const [name, value] of response.headers) put(headers, name, value);
  const statusText = sendable(response.statusMessage) ?? "";
  return assemble(response.status, statusText, headers, response.body, ours);
}

/** Lets a response pass that is not held, with what is awaited before its last byte leaves or after its client is gone. */
export function passingResponse(
  { head, rest }: Unheld,
  ours: Ours,
  beforeEnd: () => Promise<void>,
): Response {
  let ending: Promise<void> | undefined;
  const end = (): Promise<void> => (ending ??= beforeEnd());
  const take = async (): Promise<Chunk> => {
    const value = rest.held.shift();
    if (value !== undefined) return { done: false, value };
    const next = rest.next ?? rest.reader.read();
    rest.next = undefined;
    return next;
  };
  const body = new ReadableStream<Uint8Array>(
    {
      async pull(controller) {
        try {
          const { done, value } = await take();
          if (!done) return controller.enqueue(toBytes(value));
          await end();
          controller.close();
        } catch (error) {
          await end();
          controller.error(error);
        }
      },
      async cancel(reason) {
        const cancelled = rest.reader.cancel(reason);
        await end();
        await cancelled;
      },
    },
    { highWaterMark: 0 },
  );
  const headers = new Headers(head.headers);
  for (const [name, value] of ours) put(headers, name, value);
  return new Response(body, { status: head.status, statusText: head.statusText, headers });
}

/** A response as it is, with headers of ours. */
export function withHeaders(response: Response, ours: Ours): Response {
  const { status, statusText, body } = response;
  const headers = new Headers(response.headers);
  for (const [name, value] of ours) put(headers, name, value);
  return new Response(body, { status, statusText, headers });
}

function assemble(
  status: number,
  statusText: string,
  headers: Headers,
  body: Uint8Array,
  ours: Ours,
): Response {
  for (const [name, value] of ours) put(headers, name, value);
  return new Response(hasNoBody(status) || body.length === 0 ? null : body, {
    status,
    statusText,
    headers,
  });
}

function put(headers: Headers, name: string, value: string | readonly string[]): void {
  headers.delete(name);
  for (const one of typeof value === "string" ? [value] : value) headers.append(name, one);
}

/** Null body statuses of the Fetch standard: a Response of one of these with a body throws. */
function hasNoBody(status: number): boolean {
  return status === 204 || status === 205 || status === 304;
}
