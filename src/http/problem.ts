/**
 * Refusals on the wire. Owns: the two dialects, problem+json (RFC 9457) and Stripe's envelope. Must never show a value of a
 * request or the cause of an error.
 */
import type { ErrorCode, IdempotencyError } from "../core/errors.js";
import type { StoredHeader, StoredResponse } from "../core/record.js";

export type Dialect = "ietf" | "stripe";

/** A refusal as a response. Never stored; it only shares the shape. */
export function renderError(error: IdempotencyError, dialect: Dialect): StoredResponse {
  const retryAfter: Headers =
    error.retryAfterSeconds === undefined ? [] : [["Retry-After", String(error.retryAfterSeconds)]];
  return dialect === "stripe" ? renderStripe(error, retryAfter) : renderProblem(error, retryAfter);
}

type Headers = readonly StoredHeader[];

function renderProblem(error: IdempotencyError, retryAfter: Headers): StoredResponse {
  const { type, title, status, message: detail, code, retryable, differs } = error;
  return {
    status,
    headers: [
      ["Content-Type", "application/problem+json"],
      ["Cache-Control", "no-store"],
      ...retryAfter,
    ],
    body: toBytes({
      type,
      title,
      status,
      detail,
      code,
      retryable,
      ...(differs === undefined ? {} : { differs }),
    }),
  };
}

/** Where Stripe has a word of its own for a case. https://docs.stripe.com/api/errors and /error-codes */
const stripeCodes: Partial<Record<ErrorCode, { status: number; type: string; code: string }>> = {
  key_reused: { status: 400, type: "idempotency_error", code: "idempotency_error" },
  in_progress: { status: 409, type: "invalid_request_error", code: "idempotency_key_in_use" },
};

function renderStripe(error: IdempotencyError, retryAfter: Headers): StoredResponse {
  const own = stripeCodes[error.code];
  const status = own?.status ?? error.status;
  const type = own?.type ?? (status >= 500 ? "api_error" : "invalid_request_error");
  const { message, differs } = error;
  return {
    status,
    headers: [
      ["Content-Type", "application/json"],
      ["Cache-Control", "no-store"],
      ["Stripe-Should-Retry", String(error.retryable)],
      ...retryAfter,
    ],
    body: toBytes({
      error: {
        type,
        code: own?.code ?? error.code,
        message,
        doc_url: error.type,
        ...(differs === undefined ? {} : { differs }),
      },
    }),
  };
}

/**
 * What stands for the response of a handler that threw where nobody renders errors. It is stored as the handler's own, and
 * tells nothing of the error. https://www.rfc-editor.org/rfc/rfc9457#name-aboutblank
 */
export function renderFailure(dialect: Dialect): StoredResponse {
  const title = "Internal Server Error";
  const document =
    dialect === "stripe"
      ? { error: { type: "api_error", message: "The server failed to handle the request." } }
      : { type: "about:blank", title, status: 500 };
  const contentType = dialect === "stripe" ? "application/json" : "application/problem+json";
  return {
    status: 500,
    headers: [
      ["content-type", contentType],
      ["cache-control", "no-store"],
    ],
    body: toBytes(document),
  };
}

function toBytes(document: unknown): Uint8Array {
  return Buffer.from(JSON.stringify(document));
}
