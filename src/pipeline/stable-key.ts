/**
 * Keys made from business identity: the same event, the same key, in every run and in every language. Owns: what may be part of
 * a key, and the algorithm (docs/stable-key.md), which may never change under its version. Must never guess: what could come
 * out differently the next time is refused.
 */
import { createHash } from "node:crypto";
import { IdempotencyError } from "../core/errors.js";
import { weakness } from "../core/key.js";

/** What a key can be made of. Dates stand for their instant; fractions, null and undefined are no identity. */
export type KeyPart =
  | string
  | number
  | bigint
  | boolean
  | Date
  | readonly KeyPart[]
  | { readonly [name: string]: KeyPart };

/** Why an id will change from run to run, as {@link weakEventId} says it. */
export type WeakId = "small_integer" | "unix_time" | "iso_time";

/** In front of what is hashed, so that no other hash of the same text is ever the same key. */
const domain = "oncekey stable key v1\n";
const prefix = "key_";
/** Names of one form sort alike in every language; JavaScript, Java and C# sort others by UTF-16, Python and Go do not. */
const nameForm = /^[A-Za-z_][A-Za-z0-9_.-]{0,63}$/;
/** A local time is another instant wherever it is read. */
const withoutZone = /^\d{4}-\d\d-\d\d[T ]\d\d:?\d\d(?::?\d\d(?:[.,]\d+)?)?$/;
const loneSurrogate = /\p{Surrogate}/u;
const maxDepth = 8;
const maxCanonicalLength = 65_536;

/**
 * One deterministic key from named business fields: `stableKey({ order: "A-17", line: 3 })`. The order of the names does not
 * matter; every name, every value and its type do (`3` and `"3"` are different). The key is `key_` and 43 characters of
 * `A-Z a-z 0-9 _ -`, so it is valid as an `Idempotency-Key`, as a text key of a table, and in a URL.
 *
 * @throws `key_part_invalid` for no parts, an empty text, list or object, null, undefined, a number that is not an integer within
 *   2^53 (larger ones as bigint, amounts in minor units or as text), an invalid Date, a time without a zone, a function, a
 *   symbol, anything that is not plain data, and a lone surrogate. Its message has the part's name and never its value.
 */
export function stableKey(parts: { readonly [name: string]: KeyPart }): string {
  if (!isPlain(parts)) throw invalid("stableKey takes an object of named parts.");
  const text = canonicalObject(parts, "", 0);
  if (text.length > maxCanonicalLength)
    throw invalid(`The parts are longer than ${maxCanonicalLength} characters.`);
  const hash = createHash("sha256").update(domain).update(text, "utf8");
  return `${prefix}${hash.digest("base64url")}`;
}

/**
 * Why an event's id names the attempt and not the event, or undefined for one that looks stable: counters of a run and times
 * of processing are others the next time, and every row is then stored again.
 */
export function weakEventId(id: string | number | bigint): WeakId | undefined {
  return weakness(String(id));
}

function canonical(value: unknown, path: string, depth: number): string {
  if (depth > maxDepth) throw invalid(`${path} is nested deeper than ${maxDepth} levels.`);
  switch (typeof value) {
    case "string":
      return canonicalText(value, path);
    case "number":
      return canonicalNumber(value, path);
    case "bigint":
    case "boolean":
      return String(value);
    case "object":
      if (value instanceof Date) return canonicalDate(value, path);
      if (Array.isArray(value)) return canonicalList(value, path, depth);
      if (isPlain(value)) return canonicalObject(value, `${path}.`, depth);
      throw invalid(`${path} is ${value === null ? "null" : "not plain data"}.`);
    default:
      throw invalid(
        `${path} is ${typeof value === "undefined" ? "undefined" : `a ${typeof value}`}.`,
      );
  }
}

function canonicalText(text: string, path: string): string {
  if (text === "") throw invalid(`${path} is empty.`);
  if (loneSurrogate.test(text)) throw invalid(`${path} has half a character.`);
  if (withoutZone.test(text))
    throw invalid(`${path} is a time without a zone, which is another instant elsewhere.`);
  return JSON.stringify(text);
}

function canonicalNumber(value: number, path: string): string {
  if (!Number.isFinite(value)) throw invalid(`${path} is not a finite number.`);
  if (!Number.isInteger(value))
    throw invalid(`${path} has a fraction: give it in minor units, or as text.`);
  if (!Number.isSafeInteger(value))
    throw invalid(`${path} is beyond 2^53, where numbers collapse: give it as bigint or text.`);
  // Zero has no sign here.
  return String(value + 0);
}

/** The instant in UTC with milliseconds, which is also how a text of it is given elsewhere. */
function canonicalDate(date: Date, path: string): string {
  if (Number.isNaN(date.getTime())) throw invalid(`${path} is an invalid Date.`);
  return JSON.stringify(date.toISOString());
}

function canonicalList(list: readonly unknown[], path: string, depth: number): string {
  if (list.length === 0) throw invalid(`${path} is empty.`);
  const items = Array.from(list, (item, index) => canonical(item, `${path}[${index}]`, depth + 1));
  return `[${items.join(",")}]`;
}

function canonicalObject(
  object: Readonly<Record<string, unknown>>,
  path: string,
  depth: number,
): string {
  const names = Object.keys(object).sort();
  if (names.length === 0)
    throw invalid(`${path === "" ? "The key" : path.slice(0, -1)} has no parts.`);
  if (Object.getOwnPropertySymbols(object).length > 0)
    throw invalid("A part is named by a symbol.");
  const members = names.map((name) => {
    if (!nameForm.test(name))
      throw invalid(
        "A name of a part is not 1 to 64 of A-Z a-z 0-9 _ . - with a letter or _ first.",
      );
    return `"${name}":${canonical(object[name], `${path}${name}`, depth + 1)}`;
  });
  return `{${members.join(",")}}`;
}

function isPlain(value: unknown): value is Readonly<Record<string, unknown>> {
  if (typeof value !== "object" || value === null) return false;
  const prototype: unknown = Object.getPrototypeOf(value);
  // Objects of another realm (a vm, a test runner) have an Object.prototype of their own, which has no prototype either.
  return prototype === null || Object.getPrototypeOf(prototype) === null;
}

function invalid(detail: string): IdempotencyError {
  return new IdempotencyError("key_part_invalid", { detail });
}
