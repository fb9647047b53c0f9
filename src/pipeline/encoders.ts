/**
 * From values of JavaScript to the binary format of COPY, by the types of the catalog. Owns: which values a column takes, and what is
 * said of those it does not. Must never store another value than the one it was given.
 */
import { encodeFloat, encodeInt8, encodeInteger, encodeNumeric } from "./encode-number.js";
import { encodeDate, encodeInstant, encodeInstantOf } from "./encode-time.js";
import type { Encoder, RowBuffer } from "./row-buffer.js";

/** What the catalog says of a type. */
export interface ColumnType {
  /** Of the base type, such as `int8`. */
  readonly name: string;
  readonly oid: number;
  /** Modifier: the n of varchar(n), precision and scale of numeric; -1 for none. */
  readonly modifier: number;
  /** The type of an array's elements. */
  readonly element: ColumnType | undefined;
}

const nothing = -1;
/** Shorter texts are faster by hand than by a call out of JavaScript. */
const longestByHand = 48;
const loneSurrogate = /\p{Surrogate}/u;
const modifierHead = 4;

/** Undefined for a type that has none here: its values travel as text and are cast by the server. */
export function encoderFor(type: ColumnType, isKey: boolean): Encoder | undefined {
  const { name, modifier, element } = type;
  switch (name) {
    case "int2":
    case "int4":
      return encodeInteger(name);
    case "int8":
      return encodeInt8;
    case "float4":
    case "float8":
      return encodeFloat(name);
    case "numeric":
      return encodeNumeric(
        // Of eleven bits with a sign.
        modifier < modifierHead ? undefined : (((modifier - modifierHead) & 0x7ff) ^ 0x400) - 0x400,
        isKey,
      );
    case "text":
      return encodeText;
    case "varchar":
      return modifier < modifierHead ? encodeText : encodeVarchar(modifier - modifierHead);
    case "bool":
      return encodeBoolean;
    case "uuid":
      return encodeUuid;
    case "timestamptz":
      return modifier < 0 || modifier > 5 ? encodeInstant : encodeInstantOf(modifier);
    case "date":
      return encodeDate;
    case "json":
      return encodeJson;
    case "jsonb":
      return encodeJsonb;
    case "bytea":
      return encodeBytes;
    default:
      return element === undefined ? undefined : encodeArray(element);
  }
}

/** For a column of type text in the staging table, which the server casts. */
export const encodeCast: Encoder = (value, out) => {
  if (typeof value === "number" && !Number.isFinite(value)) return "is not a finite number";
  if (typeof value === "number" && Number.isInteger(value) && !Number.isSafeInteger(value))
    return "is beyond 2^53, where numbers collapse: give it as bigint or text";
  if (["number", "bigint", "boolean"].includes(typeof value)) return encodeText(String(value), out);
  return typeof value === "string" ? encodeText(value, out) : "is not a text";
};

const encodeText: Encoder = (value, out) =>
  typeof value === "string" ? putText(value, out, 0) : "is not a text";

/** Writes a text behind `head` bytes of its field, which the caller fills. */
function putText(value: string, out: RowBuffer, head: number): string | undefined {
  const { length } = value;
  if (length > longestByHand) return putLongText(value, out, head);
  const start = out.at + 4 + head;
  out.reserve(4 + head + length);
  const { bytes } = out;
  for (let index = 0; index < length; index += 1) {
    const code = value.charCodeAt(index);
    if (code === 0 || code > 0x7f) return putLongText(value, out, head);
    bytes[start + index] = code;
  }
  out.putInt32(out.at, head + length);
  out.at = start + length;
  return undefined;
}

function putLongText(value: string, out: RowBuffer, head: number): string | undefined {
  if (value.includes("\0")) return "has a NUL character, which Postgres cannot store";
  out.reserve(4 + head + value.length * 3);
  const size = out.bytes.write(value, out.at + 4 + head);
  // Half a character would be stored as a replacement, and two keys could become one.
  if (size !== value.length && loneSurrogate.test(value)) return "has half a character";
  out.putInt32(out.at, head + size);
  out.at += 4 + head + size;
  return undefined;
}

function encodeVarchar(most: number): Encoder {
  return (value, out) => {
    if (typeof value === "string" && value.length > most && charactersOf(value) > most)
      return `is longer than varchar(${most})`;
    return encodeText(value, out);
  };
}

/** As Postgres counts them: one for each code point. */
function charactersOf(text: string): number {
  let count = 0;
  for (const _character of text) count += 1;
  return count;
}

const encodeBoolean: Encoder = (value, out) => {
  if (typeof value !== "boolean") return "is not a boolean";
  out.int32(1);
  out.byte(value ? 1 : 0);
  return undefined;
};

const hexDigit = new Int8Array(128).fill(-1);
for (const [index, digit] of "0123456789abcdef".split("").entries()) {
  hexDigit[digit.charCodeAt(0)] = index;
  hexDigit[digit.toUpperCase().charCodeAt(0)] = index;
}
const hyphen = 0x2d;
const notUuid = "is not a UUID";

const encodeUuid: Encoder = (value, out) => {
  if (typeof value !== "string" || value.length !== 36) return notUuid;
  const hasHyphens =
    value.charCodeAt(8) === hyphen &&
    value.charCodeAt(13) === hyphen &&
    value.charCodeAt(18) === hyphen &&
    value.charCodeAt(23) === hyphen;
  const [a, b] = [hexAt(value, 0), hexAt(value, 4)];
  const [c, d] = [hexAt(value, 9), hexAt(value, 14)];
  const [e, f] = [hexAt(value, 19), hexAt(value, 24)];
  const [g, h] = [hexAt(value, 28), hexAt(value, 32)];
  if (!hasHyphens || (a | b | c | d | e | f | g | h) < 0) return notUuid;
  out.reserve(20);
  const { view, at } = out;
  view.setInt32(at, 16);
  view.setInt32(at + 4, (a << 16) | b);
  view.setInt32(at + 8, (c << 16) | d);
  view.setInt32(at + 12, (e << 16) | f);
  view.setInt32(at + 16, (g << 16) | h);
  out.at = at + 20;
  return undefined;
};

/** The number that four hexadecimal digits make; below zero where one of them is something else. */
function hexAt(text: string, at: number): number {
  const [a, b] = [text.charCodeAt(at), text.charCodeAt(at + 1)];
  const [c, d] = [text.charCodeAt(at + 2), text.charCodeAt(at + 3)];
  if ((a | b | c | d) > 0x7f) return -1;
  return (
    ((hexDigit[a] as number) << 12) |
    ((hexDigit[b] as number) << 8) |
    ((hexDigit[c] as number) << 4) |
    (hexDigit[d] as number)
  );
}

const rawJson = Symbol.for("oncekey.json-text");

/** JSON that is text already, so that it is stored as it is: numbers of any size keep their digits. */
export interface JsonText {
  readonly text: string;
}

/** Marks a text as JSON for a json or jsonb column, where a bare string would be stored as a JSON string. */
export function jsonText(text: string): JsonText {
  return Object.freeze({ [rawJson]: true, text });
}

function toJson(value: unknown): string | undefined {
  if (typeof value === "object" && value !== null && rawJson in value)
    return (value as unknown as JsonText).text;
  try {
    const text = JSON.stringify(value);
    // It writes null for what is no JSON. Looked for only where there is a null.
    const isSuspect = text !== undefined && text.includes("null");
    return isSuspect && hasLost(value) ? undefined : text;
  } catch {
    // A bigint or a cycle.
    return undefined;
  }
}

/** A number that is none, or a time that does not exist. */
function hasLost(value: unknown): boolean {
  if (typeof value === "number") return !Number.isFinite(value);
  if (typeof value !== "object" || value === null) return false;
  if (value instanceof Date) return Number.isNaN(value.getTime());
  if (Array.isArray(value)) return value.some(hasLost);
  if ("toJSON" in value && typeof value.toJSON === "function") return false;
  return Object.values(value).some(hasLost);
}

const notJson = "is not a JSON value";

const encodeJson: Encoder = (value, out) => {
  const text = toJson(value);
  return text === undefined ? notJson : putText(text, out, 0);
};

const jsonbVersion = 1;

const encodeJsonb: Encoder = (value, out) => {
  const text = toJson(value);
  if (text === undefined) return notJson;
  const start = out.at;
  const problem = putText(text, out, 1);
  if (problem === undefined) out.bytes[start + 4] = jsonbVersion;
  return problem;
};

const encodeBytes: Encoder = (value, out) => {
  if (!(value instanceof Uint8Array)) return "is not bytes";
  out.int32(value.length);
  out.appendBytes(value);
  return undefined;
};

/** Lists of one dimension, whose items may be null. */
function encodeArray(element: ColumnType): Encoder | undefined {
  const encodeItem = element.element === undefined ? encoderFor(element, false) : undefined;
  if (encodeItem === undefined) return undefined;
  return (value, out) => {
    if (!Array.isArray(value)) return "is not a list";
    const list: readonly unknown[] = value;
    const start = out.at;
    out.int32(0);
    out.int32(list.length === 0 ? 0 : 1);
    out.int32(list.some((item) => item === null || item === undefined) ? 1 : 0);
    out.int32(element.oid);
    if (list.length > 0) {
      out.int32(list.length);
      out.int32(1);
    }
    for (const item of list) {
      if (item === null || item === undefined) out.int32(nothing);
      else {
        const problem = encodeItem(item, out);
        if (problem !== undefined) return `has an item that ${problem}`;
      }
    }
    out.putInt32(start, out.at - start - 4);
    return undefined;
  };
}

/** A field without a value. */
export function encodeNull(out: RowBuffer): void {
  out.int32(nothing);
}
