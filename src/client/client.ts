/**
 * A `fetch` for writes that are retried. Owns: one key for each call, however often it is sent. Must never send a call under a
 * second key, nor before its key is kept.
 */
import { attempt, type Fetch } from "./attempt.js";
import { checkedKey, randomKey } from "./key.js";
import { type ClientOptions, type RetryOptions, type Settings, settingsOf } from "./options.js";
import { backoffMs, isWorthRetrying, retryAfterMs } from "./retry.js";

export { isNoAnswer, NoAnswerError };
export { randomKey } from "./key.js";
export { indexedDbKeys, webStorageKeys } from "./key-stores.js";
export type { Fetch } from "./attempt.js";
export type { ClientClock } from "./clock.js";
export type { KeyStore, WebStorage } from "./key-stores.js";
export type { ClientOptions, RetryOptions } from "./options.js";

/** What `fetch` takes, and the call's identity. */
export interface CallInit extends RequestInit, RetryOptions {
  /** The key to send, for one that the caller has made of the business itself. 1 to 255 printable ASCII characters. */
  readonly idempotencyKey?: string;
  /**
   * A name for this piece of business, the same after a reload or a restart, and never used for another one. Its key is made
   * once and kept in the key store until {@link Client.forget}.
   */
  readonly call?: string;
}

export interface Client {
  /**
   * Sends a request, again and again where that may help, always with the same key and the same bytes.
   *
   * Resolves with the answer, or the last one when the retries are used up, its body read to the end. Rejects with a
   * {@link NoAnswerError} when the last attempt got none; with the signal's reason when the caller aborts; with a TypeError when
   * the call cannot be made, before anything is sent; and with what the key store throws, likewise.
   *
   * `POST` and `PATCH` without `idempotencyKey`, `call` or an `Idempotency-Key` header get a random key. Methods that HTTP calls
   * idempotent (`GET`, `HEAD`, `OPTIONS`, `PUT`, `DELETE`; RFC 9110, section 9.2.2) are retried without a key, unless they are
   * given one.
   */
  (input: Parameters<Fetch>[0], init?: CallInit): Promise<Response>;
  /**
   * Lets go of a call's key: the next call of this name is new business. To be called when the answer has been noted, or when
   * the business is given up; a call whose outcome is not known keeps its key.
   */
  forget(call: string): Promise<void>;
}

/** No attempt of a call was answered last. What was asked for may have happened; the same key is safe to send again. */
class NoAnswerError extends TypeError {
  override readonly name = "NoAnswerError";
  /** The key under which to go on, by `idempotencyKey`. Undefined for a method that was sent without. */
  readonly idempotencyKey: string | undefined;
  /** How often the request was sent. */
  readonly attempts: number;

  constructor(idempotencyKey: string | undefined, attempts: number, cause: unknown) {
    super(`No answer after ${attempts} attempts.`, { cause });
    this.idempotencyKey = idempotencyKey;
    this.attempts = attempts;
  }
}

/** True for a {@link NoAnswerError} of any copy of this package. */
function isNoAnswer(error: unknown): error is NoAnswerError {
  return (error as Error | undefined)?.name === "NoAnswerError";
}

/** Makes a {@link Client}. Throws a TypeError that names every option that is wrong. */
export function createClient(options: ClientOptions = {}): Client {
  const { keys } = settingsOf(options);
  const send = async (input: Parameters<Fetch>[0], init: CallInit = {}): Promise<Response> => {
    const { call, idempotencyKey, retries, timeoutMs, ...fetchInit } = init;
    const settings = settingsOf(options, { retries, timeoutMs } as RetryOptions);
    const request = isRequest(input) ? input : undefined;
    const signal = init.signal ?? request?.signal;
    signal?.throwIfAborted();
    const { headers, body } = await content(request, fetchInit);
    const method = (init.method ?? request?.method ?? "GET").toUpperCase();
    // Finds a wrong URL, header or mode now: later it could not be told from a network that fails.
    if (request === undefined && options.fetch === undefined)
      void new Request(input, { ...fetchInit, headers, body });

    // Browsers take the key out of such a request without a word (Fetch, section 2.2.2).
    if ((init.mode ?? request?.mode) === "no-cors") throw new TypeError("no-cors sends no key.");
    const key = await chooseKey({ settings, method, headers, idempotencyKey, call });
    if (key !== undefined) headers.set("Idempotency-Key", key);
    const fetchNow = options.fetch ?? fetch;
    return repeat(settings, key, signal, (attemptSignal) =>
      // A clone, since a request that has no bytes is sent as it is, and is used up by that.
      fetchNow(request?.clone() ?? input, { ...fetchInit, headers, body, signal: attemptSignal }),
    );
  };
  return Object.assign(send, {
    async forget(call: string): Promise<void> {
      await keys?.forget(call);
    },
  });
}

async function repeat(
  settings: Settings,
  key: string | undefined,
  signal: AbortSignal | undefined,
  send: (signal: AbortSignal) => Promise<Response>,
): Promise<Response> {
  const { clock, timeoutMs, retries, maxDelayMs } = settings;
  for (let retry = 0; ; retry += 1) {
    const attempted = await attempt({ send, timeoutMs, clock, signal });
    let waitMs = 0;
    if (attempted.kind === "answered") {
      const { response, text } = attempted;
      const { status, headers } = response;
      waitMs = retryAfterMs(headers, clock.nowMs());
      const isFinal = !isWorthRetrying({ status, headers, text });
      if (isFinal || retry >= retries || waitMs > maxDelayMs) return response;
    } else if (retry >= retries) throw new NoAnswerError(key, retry + 1, attempted.error);
    await clock.sleep(waitMs + backoffMs(retry, clock.random(), settings), signal);
    signal?.throwIfAborted();
  }
}

const idempotentMethods = ["GET", "HEAD", "OPTIONS", "PUT", "DELETE"];

async function chooseKey(choice: {
  readonly settings: Settings;
  readonly method: string;
  readonly headers: Headers;
  readonly idempotencyKey: string | undefined;
  readonly call: string | undefined;
}): Promise<string | undefined> {
  const { settings, method, headers, idempotencyKey, call } = choice;
  const header = headers.get("Idempotency-Key") ?? undefined;
  const named = [idempotencyKey, call, header].filter((name) => name !== undefined);
  if (named.length > 1)
    throw new TypeError("Give one of idempotencyKey, call and an Idempotency-Key header.");
  if (call !== undefined) {
    if (settings.keys === undefined) throw new TypeError("call needs the client's option keys.");
    if (call === "") throw new TypeError("call is empty.");
    return checkedKey(await settings.keys.keep(call, randomKey()));
  }
  const [given] = named;
  if (given !== undefined) return checkedKey(given);
  return idempotentMethods.includes(method) ? undefined : randomKey();
}

/**
 * The request's headers, and its body as bytes: the same at each attempt, whatever becomes of the caller's object, and with the
 * same boundary where it is a form.
 */
async function content(
  request: Request | undefined,
  init: RequestInit,
): Promise<{ headers: Headers; body: ArrayBuffer | null }> {
  const headers = new Headers(init.headers ?? request?.headers);
  const given = init.body as unknown;
  if (isStream(given))
    throw new TypeError("A stream can be sent only once, so it cannot be retried. Read it first.");
  const source = given !== undefined && given !== null ? new Response(init.body) : request?.clone();
  const body = (await source?.arrayBuffer()) ?? null;
  const type = source?.headers.get("content-type");
  if (type && !headers.has("content-type")) headers.set("content-type", type);
  return { headers, body: body?.byteLength === 0 ? null : body };
}

function isRequest(input: Parameters<Fetch>[0]): input is Request {
  return typeof input === "object" && "clone" in input;
}

function isStream(body: unknown): boolean {
  return (
    typeof body === "object" &&
    body !== null &&
    ("getReader" in body || Symbol.asyncIterator in body)
  );
}
