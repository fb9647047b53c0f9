/**
 * What the server says when it refuses. Owns: its own error codes, and both envelopes: RFC 9457 problem documents and
 * Stripe's. Must never carry a value that the client sent, but for its method and path.
 */
import type { ErrorRequestHandler, Request, RequestHandler, Response } from "express";
import { isIdempotencyError } from "../index.js";
import type { IdempotencyError } from "../index.js";
import type { Dialect } from "./config.js";

interface ApiErrorEntry {
  readonly status: number;
  readonly title: string;
  readonly retryable: boolean;
  /** Stripe's `error.type`, by which its SDKs choose the class they raise. */
  readonly stripeType: "invalid_request_error" | "card_error" | "api_error";
}

/** Every error of the server's own, once; the library's are in its own table. openapi.yaml is held against both. */
export const apiErrorTable = {
  unauthorized: {
    status: 401,
    title: "The API key is missing or not valid",
    retryable: false,
    stripeType: "invalid_request_error",
  },
  invalid_request: {
    status: 400,
    title: "The request is not valid",
    retryable: false,
    stripeType: "invalid_request_error",
  },
  card_declined: {
    status: 402,
    title: "The card was declined",
    retryable: false,
    stripeType: "card_error",
  },
  out_of_stock: {
    status: 409,
    title: "Not enough of it is in stock",
    retryable: false,
    stripeType: "invalid_request_error",
  },
  not_found: {
    status: 404,
    title: "There is no such resource",
    retryable: false,
    stripeType: "invalid_request_error",
  },
  method_not_allowed: {
    status: 405,
    title: "The resource does not know this method",
    retryable: false,
    stripeType: "invalid_request_error",
  },
  payload_too_large: {
    status: 413,
    title: "The request body is too large",
    retryable: false,
    stripeType: "invalid_request_error",
  },
  unsupported_media_type: {
    status: 415,
    title: "The content type of the request body is not supported",
    retryable: false,
    stripeType: "invalid_request_error",
  },
  internal_error: {
    status: 500,
    title: "The server failed",
    retryable: true,
    stripeType: "api_error",
  },
  not_ready: {
    status: 503,
    title: "The server is not ready",
    retryable: true,
    stripeType: "api_error",
  },
} as const satisfies Record<string, ApiErrorEntry>;

export type ApiErrorCode = keyof typeof apiErrorTable;

/** What is wrong with one field. */
export interface FieldError {
  readonly field: string;
  readonly message: string;
}

export interface ApiErrorDetails {
  readonly errors?: readonly FieldError[];
  readonly headers?: Readonly<Record<string, string | readonly string[]>>;
  /** More members of Stripe's `error` object. */
  readonly stripe?: Readonly<Record<string, string>>;
}

/** An answer of the server that is no success; thrown anywhere, sent by {@link sendErrors}. */
export class ApiError extends Error {
  override readonly name = "ApiError";

  constructor(
    readonly code: ApiErrorCode,
    detail: string,
    readonly details: ApiErrorDetails = {},
  ) {
    super(detail);
  }

  get status(): number {
    return apiErrorTable[this.code].status;
  }
}

const docsBase = "https://oncekey.dev/server-errors#";
const problemType = "application/problem+json";

/** An error in the server's dialect, as `steps.fail` takes it. */
export function renderApiError(dialect: Dialect, error: ApiError): RenderedError {
  const entry: ApiErrorEntry = apiErrorTable[error.code];
  const { status, title, retryable } = entry;
  const { headers = {}, errors } = error.details;
  if (dialect === "stripe") {
    // Stripe's SDKs repeat every 409 and 5xx unless they are told; a refused request stays refused.
    const told = { "Content-Type": "application/json", "Stripe-Should-Retry": String(retryable) };
    return { status, headers: { ...headers, ...told }, body: { error: stripeError(error, entry) } };
  }
  const body = {
    type: docsBase + error.code,
    title,
    status,
    detail: error.message,
    code: error.code,
    retryable,
    ...(errors === undefined ? {} : { errors }),
  };
  return { status, headers: { ...headers, "Content-Type": problemType }, body };
}

interface RenderedError {
  readonly status: number;
  readonly headers: Readonly<Record<string, string | readonly string[]>>;
  readonly body: object;
}

/** Sends an error in the server's dialect. */
export function sendApiError(res: Response, dialect: Dialect, error: ApiError): void {
  const { status, headers, body } = renderApiError(dialect, error);
  for (const [name, value] of Object.entries(headers)) res.setHeader(name, value);
  res.status(status);
  endWithJson(res, body);
}

/** `end`, since `send` would add a charset, which JSON has no need of (RFC 8259, section 11). */
function endWithJson(res: Response, value: unknown): void {
  res.end(JSON.stringify(value));
}

function sendJson(res: Response, contentType: string, value: unknown): void {
  res.setHeader("Content-Type", contentType);
  endWithJson(res, value);
}

/** Stripe gives a code only where a program can act on it. */
const codesOfStripe: ReadonlySet<ApiErrorCode> = new Set(["card_declined", "out_of_stock"]);

function stripeError(error: ApiError, entry: ApiErrorEntry): Record<string, string> {
  const [first] = error.details.errors ?? [];
  return {
    type: entry.stripeType,
    ...(codesOfStripe.has(error.code) ? { code: error.code } : {}),
    message: error.message,
    ...(first === undefined ? {} : { param: first.field }),
    ...error.details.stripe,
  };
}

/** Turns whatever middleware and handlers throw into an answer. Mounted last. */
export function sendErrors(dialect: Dialect): ErrorRequestHandler {
  // Express knows an error handler by its four parameters.
  return (error: unknown, _req, res, next) => {
    if (res.headersSent) {
      next(error);
      return;
    }
    const answer = isIdempotencyError(error) ? error : asApiError(error);
    // Read by the request log; a client that was refused is no failure of the server.
    if (answer.status >= 500 && error instanceof Error) res.err = error;
    if (isIdempotencyError(answer)) sendLibraryError(res, dialect, answer);
    else sendApiError(res, dialect, answer);
  };
}

/** The library sends its refusals itself. This is what it hands to the app: a set-up error, or a transaction that failed. */
function sendLibraryError(res: Response, dialect: Dialect, error: IdempotencyError): void {
  const { type, title, status, message, code, retryable } = error;
  res.status(status);
  if (dialect === "stripe") {
    res.setHeader("Stripe-Should-Retry", String(retryable));
    sendJson(res, "application/json", { error: { type: "api_error", code, message } });
  } else {
    sendJson(res, problemType, { type, title, status, detail: message, code, retryable });
  }
}

/** 404, after every route. */
export const refuseUnknownPath: RequestHandler = (req) => {
  throw new ApiError("not_found", `There is no ${req.method} ${req.path} here.`);
};

/** 405 for a path that is known, and the methods it has; an OPTIONS request is answered with them. */
export function refuseOtherMethods(...methods: readonly string[]): RequestHandler {
  const allow = [...methods, ...(methods.includes("GET") ? ["HEAD"] : []), "OPTIONS"].join(", ");
  return (req, res) => {
    if (req.method === "OPTIONS") {
      res.setHeader("Allow", allow).status(204).end();
      return;
    }
    const detail = `${req.path} knows ${allow}, not ${req.method}.`;
    throw new ApiError("method_not_allowed", detail, { headers: { Allow: allow } });
  };
}

/** The path without the query, which a client may have put a secret into. */
export function pathOf(req: Request): string {
  return req.originalUrl.split("?", 1)[0] as string;
}

/** Errors of Express' own parsers carry a status and a word; their messages quote the body and are not repeated. */
function asApiError(error: unknown): ApiError {
  if (error instanceof ApiError) return error;
  const { status, type, limit } = (typeof error === "object" ? error : {}) as {
    status?: unknown;
    type?: unknown;
    limit?: unknown;
  };
  if (typeof status !== "number" || status < 400 || status >= 500) {
    return new ApiError("internal_error", "Something went wrong. The log has the Request-Id.");
  }
  if (status === 413) {
    const most = typeof limit === "number" ? `${limit} bytes are` : "Less is";
    return new ApiError("payload_too_large", `The body is too large: ${most} allowed.`);
  }
  if (status === 415) {
    return new ApiError(
      "unsupported_media_type",
      "The charset or content encoding is not supported.",
    );
  }
  const detail =
    type === "entity.parse.failed"
      ? "The body is not valid JSON."
      : "The request could not be read.";
  return new ApiError("invalid_request", detail);
}
