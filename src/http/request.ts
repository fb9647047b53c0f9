/**
 * What of a Node request counts. Owns: reading the body that a parser has left, the URL and the request's id.
 * Must never take a body that is there but unread for an empty one.
 */
import type { IncomingMessage, ServerResponse } from "node:http";
import { whenReady } from "../core/awaitable.js";
import type { Awaitable } from "../core/awaitable.js";
import type { BodyContent, RequestContent } from "../core/fingerprint.js";
import { headerLines } from "../core/key.js";
import type { RequestView } from "./keyed.js";
import { filesOf, readUpload } from "./uploads.js";
import type { FilesOfRequest } from "./uploads.js";

/** What Express and its body parsers add to a request, as far as it is looked at. */
export type ParsedRequest = Omit<IncomingMessage, "id"> &
  FilesOfRequest & {
    readonly originalUrl?: string;
    readonly body?: unknown;
    /** Some hosts parse the body before Node's stream is read and leave its bytes here. */
    readonly rawBody?: unknown;
    /** Set by body-parser when it has parsed. */
    readonly _body?: boolean;
    readonly id?: unknown;
  };

const rawBodies = new WeakMap<object, Uint8Array>();

/**
 * Keeps the bytes of a body for the fingerprint: `express.json({ verify: keepRawBody })`. With them, JSON numbers beyond
 * 2^53 are told apart; without them a body that holds one is refused (400 `body_not_exact`).
 */
export function keepRawBody(req: IncomingMessage, _res: unknown, bytes: Uint8Array): void {
  rawBodies.set(req, bytes);
}

/** A Node request as the reading of keys looks at it. */
export class NodeView implements RequestView {
  readonly #req: ParsedRequest;
  readonly #res: ServerResponse;

  constructor(req: ParsedRequest, res: ServerResponse) {
    this.#req = req;
    this.#res = res;
  }

  get method(): string {
    return this.#req.method ?? "";
  }

  get url(): string {
    return urlOf(this.#req);
  }

  get path(): string {
    return pathOf(this.#req);
  }

  headerLines(name: string): readonly string[] {
    return headerLines(this.#req.rawHeaders, name);
  }

  content(): Awaitable<RequestContent> {
    const req = this.#req;
    return whenReady(readBody(req), (body) => ({
      method: this.method,
      url: this.url,
      contentType: req.headers["content-type"],
      body,
      sent: sentBytes(req, body),
    }));
  }

  givenId(): string | undefined {
    return givenRequestId(this.#req);
  }

  whenGone(): AbortSignal {
    const gone = new AbortController();
    this.#res.once("close", () => gone.abort());
    return gone.signal;
  }
}

/** Where the client sent it, wherever routers are mounted. */
function urlOf(req: ParsedRequest): string {
  return req.originalUrl ?? req.url ?? "/";
}

/** Path without the query, which may hold what should not be kept. */
export function pathOf(req: ParsedRequest): string {
  const url = urlOf(req);
  const cut = url.indexOf("?");
  return cut === -1 ? url : url.slice(0, cut);
}

/** The id that other middleware gave the request, so that `Original-Request` can be found in the logs. */
function givenRequestId(req: ParsedRequest): string | undefined {
  if (typeof req.id === "string" && req.id !== "") return req.id;
  if (typeof req.id === "number") return String(req.id);
  const header = req.headers["x-request-id"];
  return typeof header === "string" && /^[\x21-\x7e]{1,128}$/.test(header) ? header : undefined;
}

function readBody(req: ParsedRequest): Awaitable<BodyContent> {
  const length = Number(req.headers["content-length"] ?? 0);
  if (length === 0 && req.headers["transfer-encoding"] === undefined) return { kind: "none" };
  const { body } = req;
  if (typeof body === "string") return { kind: "bytes", bytes: body };
  if (body instanceof Uint8Array)
    return { kind: "bytes", bytes: body, encoding: encodingOf(req, body) };
  const raw = rawBytes(req);
  if (isMultipart(req)) {
    const files = filesOf(req);
    if (files.length > 0) return readUpload(body ?? {}, files);
    if (raw === undefined && !hasFields(body)) return { kind: "unread" };
  }
  // Express 4 leaves {} where no parser took the body, so that only the stream tells.
  const wasParsed = req._body === true || raw !== undefined || req.readableDidRead;
  if (body === undefined || !wasParsed) return { kind: "unread" };
  return { kind: "value", value: body, raw };
}

function rawBytes(req: ParsedRequest): Uint8Array | undefined {
  return rawBodies.get(req) ?? (req.rawBody instanceof Uint8Array ? req.rawBody : undefined);
}

function isMultipart(req: ParsedRequest): boolean {
  return /^\s*multipart\//i.test(req.headers["content-type"] ?? "");
}

/** Multer's own empty form has no prototype; any other empty object may hide a body that somebody has streamed away. */
function hasFields(body: unknown): boolean {
  if (typeof body !== "object" || body === null) return false;
  return Object.keys(body).length > 0 || Object.getPrototypeOf(body) === null;
}

/** Undefined where bytes have none, or theirs was surely undone: then their count is not the one that was sent. */
function encodingOf(req: ParsedRequest, bytes: Uint8Array): string | undefined {
  const encoding = req.headers["content-encoding"]?.trim().toLowerCase() ?? "identity";
  if (encoding === "identity") return undefined;
  const sent = req.headers["content-length"];
  const wasUndone = req._body === true || (sent !== undefined && Number(sent) !== bytes.length);
  return wasUndone ? undefined : encoding;
}

/** A Content-Encoding is undone by parsers before anybody sees bytes: then those that were sent are gone. */
function sentBytes(req: ParsedRequest, body: BodyContent): Uint8Array | undefined {
  if (body.kind === "none") return new Uint8Array();
  const encoding = req.headers["content-encoding"]?.trim().toLowerCase() ?? "identity";
  if (encoding !== "identity") return undefined;
  return body.kind === "bytes" && typeof body.bytes !== "string" ? body.bytes : rawBytes(req);
}
