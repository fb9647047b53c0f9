/**
 * What Fastify keeps of a reply beside Node's response. Owns: showing the recorder the headers that hooks have set, taking a reply
 * back to an earlier moment, calling a handler as Fastify does, and sending our own answers through the app's hooks.
 * Must never let a hook change the bytes of an answer that is stored.
 */
import { isUtf8 } from "node:buffer";
import type { FastifyReply } from "fastify";
import type { StoredHeader, StoredResponse } from "../core/record.js";
import type { Answer } from "./answer.js";
import { record } from "./recorder.js";

/**
 * Puts the headers of the hooks before the handler on Node's response, where they belong to every response of the app and not to
 * what is stored. Fastify keeps them for itself until it writes the head.
 */
export function showHeaders(reply: FastifyReply): void {
  for (const [name, value] of Object.entries(reply.getHeaders())) {
    if (value !== undefined) reply.raw.setHeader(name, value);
  }
}

/**
 * Remembers a reply. Returns what takes it back, for the next run of a handler or for the app's error handler: status, headers,
 * serializer, hijack and whatever else was set on it since.
 */
export function takeReply(reply: FastifyReply): () => void {
  const own = Object.getOwnPropertyDescriptors(reply);
  const headers = copyOf(reply.getHeaders());
  const { statusCode } = reply.raw;
  return () => {
    for (const name of Reflect.ownKeys(reply)) {
      if (!Object.hasOwn(own, name)) Reflect.deleteProperty(reply, name);
    }
    Object.defineProperties(reply, own);
    for (const name of Object.keys(reply.getHeaders())) reply.removeHeader(name);
    reply.headers(copyOf(headers));
    reply.raw.statusCode = statusCode;
    showHeaders(reply);
  };
}

type ReplyHeaders = Parameters<FastifyReply["headers"]>[0];

/** Fastify adds to lists in place. */
function copyOf(headers: ReplyHeaders): ReplyHeaders {
  return Object.fromEntries(
    Object.entries(headers).map(([name, value]) => [
      name,
      Array.isArray(value) ? [...value] : value,
    ]),
  );
}

/**
 * Calls a handler behind a recording, as Fastify calls it, and resolves when its reply has ended. Unlike Fastify it answers for a
 * handler that returns nothing also where the client has hung up, since the answer is stored.
 *
 * @param whenDestroyed `"reject"`: a handler that gives its response up, as a failed stream does, has failed.
 * @throws what the handler throws, after a reply that it has begun to send has gone through the hooks: they must not write into
 * what comes next.
 */
export async function callHandler(
  reply: FastifyReply,
  whenDestroyed: "reject" | "pass",
  call: () => unknown,
): Promise<void> {
  const followed = follow(reply, whenDestroyed);
  try {
    try {
      await sendResult(reply, followed, call());
    } catch (error) {
      if (followed.isSending()) await followed.ended;
      throw error;
    }
    await followed.ended;
  } finally {
    followed.letGo();
  }
}

async function sendResult(reply: FastifyReply, followed: Followed, result: unknown): Promise<void> {
  if (!isThenable(result)) {
    // One that returns nothing sends later.
    if (result !== undefined) reply.send(result);
    return;
  }
  const payload: unknown = await result;
  const hasReplied = followed.isSending() || reply.sent || reply.raw.headersSent;
  if (payload !== undefined || !hasReplied) reply.send(payload);
}

function isThenable(value: unknown): value is PromiseLike<unknown> {
  return typeof (value as { then?: unknown } | null | undefined)?.then === "function";
}

interface Followed {
  /** The response has ended; rejects where it was destroyed and that is to be known. */
  readonly ended: Promise<void>;
  /** `send` was called, and hooks may still be at work. */
  isSending(): boolean;
  letGo(): void;
}

/** Layers what it needs over the reply and over the recorder's `end`; the recorder takes its own layers off by itself. */
function follow(reply: FastifyReply, whenDestroyed: "reject" | "pass"): Followed {
  const { raw } = reply;
  let isSending = false;
  const { promise: ended, resolve, reject } = deferred();
  const send = reply.send.bind(reply);
  const end = raw.end.bind(raw) as (...args: unknown[]) => typeof raw;
  layOver(reply, "send", (payload: unknown) => {
    isSending = true;
    return send(payload);
  });
  // Fastify's own waits for the last byte on the wire, which waits for the handler in a transaction.
  layOver(reply, "then", (fulfilled: () => void, rejected: (error: unknown) => void) => {
    ended.then(fulfilled, rejected);
  });
  layOver(raw, "end", (...args: unknown[]) => {
    const result = end(...args);
    resolve();
    return result;
  });
  const destroy = Object.getOwnPropertyDescriptor(raw, "destroy");
  if (whenDestroyed === "reject") {
    layOver(raw, "destroy", (error?: unknown) => {
      reject(error ?? new Error("The handler destroyed its response."));
      return raw;
    });
  }
  return {
    ended,
    isSending: () => isSending,
    letGo: () => {
      for (const name of ["send", "then"]) Reflect.deleteProperty(reply, name);
      if (whenDestroyed === "pass") return;
      if (destroy === undefined) Reflect.deleteProperty(raw, "destroy");
      else Object.defineProperty(raw, "destroy", destroy);
    },
  };
}

function layOver(target: object, name: string, value: (...args: never[]) => unknown): void {
  Object.defineProperty(target, name, { value, writable: true, configurable: true });
}

function deferred(): {
  readonly promise: Promise<void>;
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
} {
  let resolve: () => void = () => undefined;
  let reject: (error: unknown) => void = () => undefined;
  const promise = new Promise<void>((yes, no) => {
    resolve = yes;
    reject = no;
  });
  // Whoever waits hears of it; where nobody does, the handler has answered for itself.
  promise.catch(() => undefined);
  return { promise, resolve, reject };
}

/**
 * Sends a replay or a refusal. It goes through the app's onSend hooks, so that what they do for every response is done for this
 * one; headers that they add are sent, and what they do to status, body and stored headers is not. Resolves when it has ended.
 */
export async function sendAnswer(reply: FastifyReply, answer: Answer): Promise<void> {
  const { response, headers } = answer;
  showHeaders(reply);
  await new Promise<void>((resolve) => {
    const recording = record(reply.raw, {
      maxBytes: Number.POSITIVE_INFINITY,
      onOverflow: () => "drop",
      onEnd: (shown) => {
        const ours = [...response.headers, ...headers];
        const ofHooks = [...headersOfHooks(shown.headers, ours), ...cookies(reply)];
        recording.sendInstead(response, [...ofHooks, ...headers]);
        resolve();
      },
    });
    reply.raw.statusCode = response.status;
    for (const [name, value] of [...response.headers, ...headers]) reply.header(name, value);
    reply.send(payloadOf(response));
  });
}

/** Describe the body that a hook has made, which is not sent. */
const ofRepresentation: ReadonlySet<string> = new Set([
  "accept-ranges",
  "content-digest",
  "content-encoding",
  "content-language",
  "content-length",
  "content-location",
  "content-md5",
  "content-range",
  "content-type",
  "digest",
  "etag",
  "last-modified",
  "repr-digest",
]);

function headersOfHooks(
  shown: readonly StoredHeader[],
  ours: readonly StoredHeader[],
): readonly StoredHeader[] {
  const known = new Set(ours.map(([name]) => name.toLowerCase()));
  return shown.filter(([name]) => {
    const lower = name.toLowerCase();
    return !known.has(lower) && !ofRepresentation.has(lower);
  });
}

/** Never stored, and so not among what the recorder shows: they belong to this client's session. */
function cookies({ raw }: FastifyReply): readonly StoredHeader[] {
  const value = raw.getHeader("set-cookie");
  if (value === undefined) return [];
  return [["Set-Cookie", Array.isArray(value) ? value : String(value)]];
}

/** As hooks are used to see it: text as a string. */
function payloadOf({ body, headers }: StoredResponse): unknown {
  if (body.length === 0) return undefined;
  const bytes = Buffer.from(body.buffer, body.byteOffset, body.byteLength);
  const isEncoded = headers.some(([name]) => name.toLowerCase() === "content-encoding");
  return !isEncoded && isUtf8(bytes) ? bytes.toString() : bytes;
}
