/**
 * What of a Node request counts. Owns: reading the body that a parser has left, the URL and the request's id.
 * Must never take a body that is there but unread for an empty one.
 */
import type { IncomingMessage, ServerResponse } from "node:http";
import { IdempotencyError } from "../core/errors.js";
import type { BodyContent, RequestContent } from "../core/fingerprint.js";
import { headerLines } from "../core/key.js";
import type { RequestView } from "./keyed.js";

/** What Express and its body parsers add to a request, as far as it is looked at. */
export type ParsedRequest = Omit<IncomingMessage, "id"> & {
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
export function viewOf(req: ParsedRequest, res: ServerResponse): RequestView {
  return {
    method: req.method ?? "",
    path: pathOf(req),
    headerLines: (name) => headerLines(req.rawHeaders, name),
    content: () => readContent(req),
    givenId: () => givenRequestId(req),
    whenGone: () => {
      const gone = new AbortController();
      res.once("close", () => gone.abort());
      return gone.signal;
    },
  };
}

/** @throws `body_not_parsed` where a body is there that nobody parsed. */
function readContent(req: ParsedRequest): RequestContent {
  return {
    method: req.method ?? "",
    url: urlOf(req),
    contentType: req.headers["content-type"],
    body: readBody(req),
  };
}

/** Where the client sent it, wherever routers are mounted. */
function urlOf(req: ParsedRequest): string {
  return req.originalUrl ?? req.url ?? "/";
}

/** Path without the query, which may hold what should not be kept. */
export function pathOf(req: ParsedRequest): string {
  return urlOf(req).split("?", 1)[0] ?? "/";
}

/** The id that other middleware gave the request, so that `Original-Request` can be found in the logs. */
function givenRequestId(req: ParsedRequest): string | undefined {
  if (typeof req.id === "string" && req.id !== "") return req.id;
  if (typeof req.id === "number") return String(req.id);
  const header = req.headers["x-request-id"];
  return typeof header === "string" && /^[\x21-\x7e]{1,128}$/.test(header) ? header : undefined;
}

function readBody(req: ParsedRequest): BodyContent {
  const length = Number(req.headers["content-length"] ?? 0);
  if (length === 0 && req.headers["transfer-encoding"] === undefined) return { kind: "none" };
  const { body } = req;
  if (body instanceof Uint8Array || typeof body === "string") return { kind: "bytes", bytes: body };
  const raw = rawBodies.get(req) ?? (req.rawBody instanceof Uint8Array ? req.rawBody : undefined);
  // Express 4 leaves {} where no parser took the body, so that only the stream tells.
  const wasParsed = req._body === true || raw !== undefined || req.readableDidRead;
  if (body === undefined || !wasParsed) throw new IdempotencyError("body_not_parsed");
  return { kind: "value", value: body, raw };
}
