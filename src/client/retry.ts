/**
 * Whether and when an answered request is sent again. Pure. Must never say yes where the same request can get no other answer,
 * nor where a person has to look first.
 */
import type { ErrorCode } from "../core/errors.js";

/** An answer as far as it matters here. */
export interface Judged {
  readonly status: number;
  readonly headers: Pick<Headers, "get">;
  /** The body of an error. */
  readonly text: string;
}

/** Under these the same key never gets to another answer, whatever else the response says. */
const final: readonly (ErrorCode | "idempotency_error")[] = [
  "key_reused",
  "idempotency_error",
  "outcome_unknown",
  "key_expired",
  "response_not_stored",
];
/** A first request that is still running, in our words and in Stripe's. */
const running: readonly (ErrorCode | "idempotency_key_in_use")[] = [
  "in_progress",
  "idempotency_key_in_use",
];

/**
 * Whether sending the same request with the same key again may help. In this order: below 400 and stored answers are final, so
 * are the codes above; then `Stripe-Should-Retry` and a problem's `retryable` decide; then the status: 409 while the first
 * request runs, 425, 429, and 500 and above.
 */
export function isWorthRetrying({ status, headers, text }: Judged): boolean {
  // A replay is what is stored for the key (DESIGN, section 4), so it will be the same next time.
  if (status < 400 || headers.get("idempotent-replayed") === "true") return false;
  const { code, retryable } = read(headers.get("content-type") ?? "", text);
  if (includes(final, code)) return false;
  const told = headers.get("stripe-should-retry") ?? String(retryable);
  if (told === "true" || told === "false") return told === "true";
  return status === 409 ? includes(running, code) : [425, 429].includes(status) || status >= 500;
}

function includes(codes: readonly string[], code: unknown): boolean {
  return codes.includes(code as string);
}

/** A problem document (RFC 9457) or Stripe's envelope. `retryable` is a word of ours in problem documents only. */
function read(mediaType: string, text: string): { code?: unknown; retryable?: unknown } {
  if (!/[/+]json/i.test(mediaType)) return {};
  try {
    const body = JSON.parse(text) as Record<string, unknown> | null;
    const error = body?.["error"] as { code?: unknown } | null | undefined;
    const isProblem = /^application\/problem\+json/i.test(mediaType);
    return {
      code: error?.code ?? body?.["code"],
      ...(isProblem && { retryable: body?.["retryable"] }),
    };
  } catch {
    return {};
  }
}

/**
 * How long the server asks to wait, in milliseconds: `Retry-After` in seconds or as a date (RFC 9110, section 10.2.3), which is
 * taken relative to the server's own clock where `Date` can be read. 0 without a readable one.
 */
export function retryAfterMs(headers: Pick<Headers, "get">, nowMs: number): number {
  const value = headers.get("retry-after") ?? "";
  if (/^\d+$/.test(value)) return Number(value) * 1_000;
  const serverNowMs = Date.parse(headers.get("date") ?? "");
  const waitMs = Date.parse(value) - (Number.isNaN(serverNowMs) ? nowMs : serverNowMs);
  return waitMs > 0 ? waitMs : 0;
}

/**
 * Exponential backoff with full jitter: anything up to the doubled delay, so that clients that failed together do not come back
 * together. `retry` counts from 0.
 */
export function backoffMs(
  retry: number,
  random: number,
  { firstDelayMs, maxDelayMs }: { readonly firstDelayMs: number; readonly maxDelayMs: number },
): number {
  return random * Math.min(maxDelayMs, firstDelayMs * 2 ** retry);
}
