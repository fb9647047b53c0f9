/**
 * A Fastify request as the reading of keys looks at it. Owns: which bodies count as parsed there. Must never take a body whose
 * parts are still streams for one that can be compared.
 */
import type { FastifyReply, FastifyRequest } from "fastify";
import type { RequestView } from "./keyed.js";
import { NodeView, pathOf } from "./request.js";
import type { ParsedRequest } from "./request.js";
import type { RoutedRequest } from "./steps.js";

/** What plugins leave on a request, where they are used. */
interface WithRawBody {
  /** By fastify-raw-body, as bytes: it tells JSON numbers beyond 2^53 apart. */
  readonly rawBody?: unknown;
}

export function viewOfFastify(request: FastifyRequest, reply: FastifyReply): RequestView {
  return new NodeView(parsedRequest(request), reply.raw);
}

/** What a steps route keeps of a request. */
export function routedOfFastify(request: FastifyRequest): RoutedRequest {
  return {
    headers: request.headers,
    path: pathOf(parsedRequest(request)),
    params: asRecord(request.params),
    query: asRecord(request.query),
    body: request.body,
  };
}

function parsedRequest(request: FastifyRequest): ParsedRequest {
  const { raw, body, id, originalUrl } = request;
  const { rawBody } = request as WithRawBody;
  const seen: Partial<ParsedRequest> = {
    ...(raw.method === undefined ? {} : { method: raw.method }),
    headers: raw.headers,
    rawHeaders: raw.rawHeaders,
    originalUrl,
    id,
    body: isReadable(body) ? body : undefined,
    rawBody: typeof rawBody === "string" ? Buffer.from(rawBody) : rawBody,
    readableDidRead: raw.readableDidRead,
  };
  return seen as ParsedRequest;
}

/** False for a stream that a parser has handed on, and for a form with files that are streams or are kept elsewhere. */
function isReadable(body: unknown): boolean {
  if (typeof body !== "object" || body === null || body instanceof Uint8Array) return true;
  if (isStream(body)) return false;
  return !Object.values(body).flat().some(isFilePart);
}

function isStream(value: object): boolean {
  const { pipe, getReader } = value as { pipe?: unknown; getReader?: unknown };
  return typeof pipe === "function" || typeof getReader === "function";
}

/** What @fastify/multipart puts in the place of a file, and of a field under attachFieldsToBody. */
function isFilePart(value: unknown): boolean {
  if (typeof value !== "object" || value === null || value instanceof Uint8Array) return false;
  const { fieldname, mimetype, toBuffer } = value as Record<string, unknown>;
  const isPart = typeof fieldname === "string" && typeof mimetype === "string";
  return isStream(value) || typeof toBuffer === "function" || isPart;
}

function asRecord(value: unknown): Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null ? (value as Record<string, unknown>) : {};
}
