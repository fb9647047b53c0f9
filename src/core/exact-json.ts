/**
 * Parsed JSON as a value in which no two different numbers look the same. Owns: what happens to integers beyond 2^53,
 * infinities and depth. Must never let two different bodies compare as equal.
 */
import { isSafeNumber, parse } from "lossless-json";
import { IdempotencyError } from "./errors.js";

/** Deeper bodies are refused: hashing them would exhaust the stack, and no API asks for them. */
const maxDepth = 200;

/** A body in which every number is exact. */
export interface ExactJson {
  readonly value: unknown;
  /** True where tagged texts stand for numbers, so that the value is none that could have been sent as it is. */
  readonly isTagged: boolean;
}

const tag = "\0number";

/**
 * Returns the value itself where all its numbers are exact. Otherwise parses the raw bytes anew and puts a tagged text in
 * the place of each number that a double cannot hold; without raw bytes it throws `body_not_exact`.
 */
export function exactJson(value: unknown, raw: Uint8Array | undefined): ExactJson {
  if (isExact(value, 0)) return { value, isTagged: false };
  if (raw === undefined) throw new IdempotencyError("body_not_exact");
  const tagged = new Set<unknown>();
  const parseNumber = (text: string): unknown => {
    if (isSafeNumber(text)) return Number(text);
    const number = { [tag]: text.toLowerCase().replace("+", "") };
    tagged.add(number);
    return number;
  };
  // A client's own object of this form would look like a number.
  const refuseForged = (_name: string, part: unknown): unknown => {
    if (typeof part === "object" && part !== null && tag in part && !tagged.has(part))
      throw new SyntaxError("a member has the name of a tagged number");
    return part;
  };
  try {
    // As JSON.parse does: the last of equal names counts.
    const onDuplicateKey = ({ newValue }: { newValue: unknown }): unknown => newValue;
    const text = Buffer.from(raw).toString("utf8");
    return { value: parse(text, refuseForged, { onDuplicateKey, parseNumber }), isTagged: true };
  } catch (cause) {
    throw new IdempotencyError("body_not_exact", { cause });
  }
}

/** True for what stands in the place of a number: one value, and no object with members. */
export function isTaggedNumber(value: object): boolean {
  return Object.hasOwn(value, tag);
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
