/**
 * Reads the Idempotency-Key header. Owns: which texts are keys, which two texts are the same key, which keys will hurt.
 * Must never guess: what is not clearly one valid key is refused, never ignored.
 */
import { ParseError, parseItem } from "structured-headers";
import type { KeyRef } from "./record.js";

/** Stripe's limit, and the width that keeps (scope, key) far below an index row's maximum. */
export const maxKeyLength = 255;

export type ParsedKey =
  | { readonly kind: "missing" }
  | { readonly kind: "invalid"; readonly detail: string }
  /** `sent`: the header as it was sent, to be echoed; undefined for a key that comes from elsewhere. */
  | { readonly kind: "key"; readonly key: string; readonly sent: string | undefined };

const printableAscii = /^[\x20-\x7e]+$/;
/** Optional white space around a field value (RFC 9110, section 5.6.3). `trim` would take a no-break space away too. */
const aroundValue = /^[ \t]+|[ \t]+$/g;

/**
 * Parses the values of all Idempotency-Key header lines of one request.
 *
 * Both the bare form (`abc`) and the structured-field string (`"abc"`, RFC 8941 section 3.3.3, as in
 * draft-ietf-httpapi-idempotency-key-header) are read, and are the same key. Parameters after the string are ignored, as
 * RFC 8941 asks for unknown ones.
 */
export function parseKey(lines: readonly string[]): ParsedKey {
  const [first] = lines;
  if (first === undefined) return { kind: "missing" };
  if (lines.length > 1) return invalid("The header was sent more than once.");
  const sent = first.replaceAll(aroundValue, "");
  if (sent === "") return invalid("The header is empty.");
  if (!sent.includes('"')) return checked(sent, sent);
  if (!sent.startsWith('"')) return invalid("A quotation mark stands inside a bare key.");
  const key = parseQuoted(sent);
  return key === undefined ? invalid("The quoted form is malformed.") : checked(key, sent);
}

/** All values of a header in the order they were sent; Node joins or drops repetitions elsewhere than in `rawHeaders`. */
export function headerLines(rawHeaders: readonly string[], lowerCaseName: string): string[] {
  const lines: string[] = [];
  for (let index = 0; index + 1 < rawHeaders.length; index += 2) {
    const name = rawHeaders[index] as string;
    if (name.length === lowerCaseName.length && name.toLowerCase() === lowerCaseName) {
      lines.push(rawHeaders[index + 1] as string);
    }
  }
  return lines;
}

/**
 * Why a key will change from run to run, or undefined for a key that looks stable: auto-increment ids and times of
 * processing name the attempt and not the business event.
 */
export function weakness(key: string): "small_integer" | "unix_time" | "iso_time" | undefined {
  if (/^\d{1,9}$/.test(key)) return "small_integer";
  // 2001-09-09 to 2096-10-02 in seconds, milliseconds, microseconds or nanoseconds.
  if (/^[1-3]\d{9}(?:\d{3}){0,3}(?:\.\d{1,9})?$/.test(key)) return "unix_time";
  if (/^\d{4}-\d\d-\d\d(?:[T ]\d\d:?\d\d(?::?\d\d(?:\.\d+)?)?(?:Z|[+-]\d\d:?\d\d)?)?$/i.test(key))
    return "iso_time";
  return undefined;
}

/** One text for (scope, key) in which no two pairs look the same. */
export function nameOf(ref: KeyRef): string {
  return `${ref.scope.length}:${ref.scope}${ref.key}`;
}

/** Judges what a route's own function gives for a key, by the rules of the header. */
export function parseOwnKey(given: unknown): ParsedKey {
  if (given === undefined) return { kind: "missing" };
  if (typeof given === "string") return checked(given, undefined);
  return invalid("What the route takes for a key is not a text.");
}

function checked(key: string, sent: string | undefined): ParsedKey {
  if (key.length === 0) return invalid("The key is empty.");
  if (!printableAscii.test(key)) return invalid("The key has a character outside printable ASCII.");
  if (key.length > maxKeyLength)
    return invalid(`The key has more than ${maxKeyLength} characters.`);
  return { kind: "key", key, sent };
}

function parseQuoted(sent: string): string | undefined {
  try {
    const [value] = parseItem(sent);
    return typeof value === "string" ? value : undefined;
  } catch (error) {
    if (error instanceof ParseError) return undefined;
    throw error;
  }
}

function invalid(detail: string): ParsedKey {
  return { kind: "invalid", detail };
}
