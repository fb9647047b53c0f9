/**
 * The rows of the matrix: what a handler can do, and what its client gets. Owns: literal statuses, what a row needs of its
 * request and its route, and the outcomes that are no replay.
 */
import type { RouteOptions } from "../../src/index.js";
import {
  brokenOff,
  largeIsNotStored,
  neverAnswers,
  pipelined,
  streamed,
  timesOut,
  tooManyHeaders,
} from "./outcomes.js";
import type { Outcome } from "./outcomes.js";
import type { HeaderLine, RequestParts } from "./wire.js";

export interface Case {
  readonly title: string;
  /** Of the first answer. Default 200. */
  readonly status?: number;
  readonly request?: RequestParts;
  readonly route?: RouteOptions;
  /** The package `compression`, or what the framework has for it, in front of the middleware or behind it. */
  readonly compression?: "in front" | "behind";
  /** What the app alone would send, and is not sent under a key. */
  readonly drops?: "interim" | "trailers";
  /** Framed in another way than by the app alone, which sends a length. */
  readonly isReframed?: boolean;
  /** Of the handler, where they are not those that the app alone sends. */
  readonly headers?: readonly HeaderLine[];
  /** Where the retry is not answered by a replay. */
  readonly outcome?: Outcome;
  /** Told under the table. */
  readonly note?: string;
}

/** Largest body of the routes that try the limit. */
export const maximum = 1_024;
export const fiveMegabytes = 5 * 1024 * 1024;
const keepsFiveMegabytes = { maxResponseBytes: fiveMegabytes };
const acceptsGzip = { headers: { "Accept-Encoding": "gzip" } };

const noInterim = "1xx responses are not sent under a key: a replay could not have them.";
const noTrailers = "Trailers are not sent under a key: a replay could not have them.";
const inLatin1 =
  "Sent in Latin-1, as Node does with a Buffer. Node alone sends them in UTF-8 where the first chunk of the body is a string.";
const grouped =
  "Values of one name stand together, in the order of its first. Node alone sends the array as it is, or only the last of " +
  "each name where headers were set before it (Node 20).";
const noCookies = "Cookies reach the first client only. They are never stored.";

export const cases = {
  json: { title: "JSON", status: 201 },
  "send-string": { title: "a string" },
  "send-buffer": { title: "a Buffer" },
  "send-object": { title: "an object" },
  "empty-200": { title: "empty 200" },
  "end-body": { title: "`end` with a body" },
  "end-encoding": { title: "`write` and `end` with encodings" },
  "every-byte": { title: "every byte there is" },
  "many-writes": { title: "a thousand writes" },
  "split-characters": { title: "characters split across writes" },
  backpressure: { title: "`write` with callbacks, `drain`, `cork`" },
  "reused-buffer": { title: "a buffer that is used again" },

  "implicit-head": { title: "implicit headers, `statusMessage`", status: 402 },
  "write-head-object": { title: "`writeHead` with an object", status: 201 },
  "write-head-array": {
    title: "`writeHead` with a flat array",
    status: 201,
    headers: [
      ["Link", "</a>"],
      ["Link", "</b>"],
      ["X-One", "1"],
    ],
    note: grouped,
  },
  "write-head-reason": { title: "`writeHead` with a status message", status: 201 },
  "flush-headers": { title: "headers flushed early" },
  "set-headers": { title: "headers set, appended, removed, set from a `Headers`" },
  "odd-headers": { title: "header names in odd cases" },
  "header-beyond-ascii": { title: "header values beyond ASCII", note: inLatin1 },
  "multi-value": { title: "several values: `Link`, `Vary`" },
  "location-etag": { title: "`Location`, `ETag`, `Last-Modified`", status: 201 },
  cookies: { title: "cookies", note: noCookies },
  "explicit-length": { title: "explicit `Content-Length`" },
  "explicit-chunks": { title: "explicit `Transfer-Encoding: chunked`" },
  trailers: { title: "trailers", drops: "trailers", note: noTrailers },
  "early-hints": { title: "103 Early Hints", drops: "interim", note: noInterim },
  processing: { title: "102 Processing", drops: "interim", note: noInterim },
  "large-headers": { title: "100 KB of response headers" },
  "large-request-headers": {
    title: "40 KB of request headers",
    outcome: tooManyHeaders,
    note: "Node refuses such a request with 431 before any handler; no key is taken.",
  },

  redirect: { title: "redirect", status: 302 },
  "see-other": { title: "redirect with a status", status: 303 },
  "send-status": { title: "a status with its words as body", status: 202 },
  "no-content": { title: "204", status: 204 },
  "not-modified": { title: "304", status: 304 },
  "content-under-204": { title: "204 with content that must not be sent", status: 204 },

  "pipe-file": { title: "a piped file" },
  "pipe-large": { title: "a piped stream of 5 MB", route: keepsFiveMegabytes },
  "pipe-slow": { title: "a slow stream" },
  "pipe-fails": { title: "a stream that fails half way", ...brokenOff },
  "server-sent-events": { title: "server-sent events", ...streamed },
  "declared-stream": { title: "`stream: true`", route: { stream: true }, ...streamed },
  "stream-with-one-end": {
    title: "`stream: true`, answered by one `end`",
    status: 402,
    route: { stream: true },
  },
  "send-file": { title: "`sendFile`" },
  "send-file-range": {
    title: "`sendFile` with a range",
    status: 206,
    request: { headers: { Range: "bytes=10-19" } },
  },
  "send-file-bad-range": {
    title: "`sendFile` with a range beyond the end",
    status: 416,
    request: { headers: { Range: "bytes=9999999-" } },
  },
  "send-file-not-modified": {
    title: "`sendFile`, not modified",
    status: 304,
    request: { headers: { "If-Modified-Since": "Fri, 01 Jan 2100 00:00:00 GMT" } },
  },
  "send-file-precondition": {
    title: "`sendFile`, precondition failed",
    status: 412,
    request: { headers: { "If-Match": '"another"' } },
  },
  "gzip-in-front": {
    title: "compression in front of the middleware",
    request: acceptsGzip,
    compression: "in front",
  },
  "gzip-behind": {
    title: "compression behind the middleware",
    request: acceptsGzip,
    compression: "behind",
  },

  throws: { title: "a thrown error", status: 500 },
  rejects: { title: "a rejected promise", status: 500 },
  "next-error": { title: "an error of 402 for the app's error handler", status: 402 },
  "throws-after-write": { title: "an error after the first write", ...brokenOff },
  "throws-after-end": { title: "an error after the end", status: 201 },
  "end-twice": { title: "a second `end`" },
  "write-after-end": { title: "a write after the end" },
  destroy: { title: "`res.destroy()`", ...brokenOff },
  "never-answers": { title: "no answer at all", outcome: neverAnswers },

  "times-out": {
    title: "no answer, with `handlerTimeoutMs`",
    route: { handlerTimeoutMs: 50 },
    outcome: timesOut,
  },

  "http-1.0": { title: "HTTP/1.0", request: { version: "1.0" } },
  "http-1.0-writes": { title: "HTTP/1.0, several writes", request: { version: "1.0" } },
  pipelined: { title: "pipelined requests on one connection", outcome: pipelined },

  "body-0": { title: "a body of 0 bytes", route: { maxResponseBytes: maximum } },
  "body-1": { title: "a body of 1 byte", route: { maxResponseBytes: maximum } },
  "body-maximum": { title: "a body of `maxResponseBytes`", route: { maxResponseBytes: maximum } },
  "body-too-large": {
    title: "one byte more",
    route: { maxResponseBytes: maximum },
    ...largeIsNotStored,
  },
  "pipe-too-large": { title: "5 MB where 1 MiB is stored", ...largeIsNotStored },
} satisfies Record<string, Case>;

export type CaseName = keyof typeof cases;
export const caseNames = Object.keys(cases) as CaseName[];
export const caseOf = (name: CaseName): Case => cases[name];
