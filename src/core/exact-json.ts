/**
 * Parsed JSON as a value in which no two different numbers look the same. Owns: what happens to integers beyond 2^53,
 * infinities and depth. Must never let two different bodies compare as equal.
 */
import { isSafeNumber, parse } from "lossless-json";
import { IdempotencyError } from "./errors.js";

/** Deeper bodies are refused: hashing them would exhaust the stack, and no API asks for them. */
const maxDepth = 200;

/**
 * Returns the value itself where all its numbers are exact. Otherwise parses the raw bytes anew and puts a tagged text in
 * the place of each number that a double cannot hold; without raw bytes it throws `body_not_exact`.
 */
export function exactJson(value: unknown, raw: Uint8Array | undefined): unknown {
  if (isExact(value, 0)) return value;
  if (raw === undefined) throw new IdempotencyError("body_not_exact");
  try {
    return parse(Buffer.from(raw).toString("utf8"), null, {
      // As JSON.parse does: the last of equal names counts.
      onDuplicateKey: ({ newValue }) => newValue,
      parseNumber: (text) =>
        isSafeNumber(text) ? Number(text) : { "\0number": text.toLowerCase().replace("+", "") },
    });
  } catch (cause) {
    throw new IdempotencyError("body_not_exact", { cause });
  }
}

function isExact(value: unknown, depth: number): boolean {
  if (typeof value === "number")
    return Number.isFinite(value) && Math.abs(value) <= Number.MAX_SAFE_INTEGER;
  if (typeof value === "bigint") return false;
  if (typeof value !== "object" || value === null) return true;
  if (depth >= maxDepth) {
    throw new IdempotencyError("body_not_exact", {
      detail: `The body is nested more than ${maxDepth} levels deep.`,
    });
  }
  for (const child of Array.isArray(value) ? (value as unknown[]) : Object.values(value)) {
    if (!isExact(child, depth + 1)) return false;
  }
  return true;
}
