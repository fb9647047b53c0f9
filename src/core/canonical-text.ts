/** Canonical JSON (RFC 8785) of what a request says. Owns: the error of a value that has none. */
import canonicalizeModule from "canonicalize";
import { IdempotencyError } from "./errors.js";
import { inOnePiece } from "./one-piece.js";

/** The package is CommonJS and its types say that it is not. */
const canonicalize = canonicalizeModule as unknown as (value: unknown) => string | undefined;

/** @throws `body_not_exact` */
export function canonicalText(value: unknown): string {
  // The canonical form of a text or a number is that of JSON (RFC 8785, sections 3.2.2.2 and 3.2.2.3), and most fields are one.
  if (typeof value === "string" || Number.isFinite(value)) return JSON.stringify(value);
  try {
    return inOnePiece(canonicalize(value) ?? "");
  } catch (cause) {
    throw new IdempotencyError("body_not_exact", {
      detail: "The parsed body has no canonical JSON form.",
      cause,
    });
  }
}
