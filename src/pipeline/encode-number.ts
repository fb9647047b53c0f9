/**
 * Numbers in the binary format of Postgres. Owns: that none changes on its way: what a JavaScript number has lost already, or the
 * column would round, is refused and named.
 */
import type { Encoder, RowBuffer } from "./row-buffer.js";

const collapsed = "is beyond 2^53, where numbers collapse: give it as bigint or text";
const integerText = /^[+-]?\d{1,40}$/;
const decimalText = /^([+-]?)(\d*)(?:\.(\d*))?(?:[eE]([+-]?\d{1,4}))?$/;

const ranges = {
  int2: { least: -(2 ** 15), most: 2 ** 15 - 1 },
  int4: { least: -(2 ** 31), most: 2 ** 31 - 1 },
} as const;

export function encodeInteger(type: "int2" | "int4"): Encoder {
  const { least, most } = ranges[type];
  return (value, out) => {
    const number = typeof value === "number" ? value : smallInteger(value);
    if (number === undefined || !Number.isInteger(number))
      return `is not an integer, as ${type} takes`;
    if (number < least || number > most) return `is out of the range of ${type}`;
    if (type === "int2") {
      out.int32(2);
      out.int16(number);
    } else {
      out.int32(4);
      out.int32(number);
    }
    return undefined;
  };
}

function smallInteger(value: unknown): number | undefined {
  if (typeof value === "bigint") return Number(value);
  return typeof value === "string" && integerText.test(value) ? Number(value) : undefined;
}

export const encodeInt8: Encoder = (value, out) => {
  if (typeof value === "number") {
    if (!Number.isInteger(value)) return "is not an integer, as int8 takes";
    if (!Number.isSafeInteger(value)) return collapsed;
    out.int32(8);
    out.int64(value);
    return undefined;
  }
  const isText = typeof value === "string" && integerText.test(value);
  if (!isText && typeof value !== "bigint") return "is not an integer, as int8 takes";
  const exact = BigInt(value);
  if (BigInt.asIntN(64, exact) !== exact) return "is out of the range of int8";
  out.int32(8);
  out.bigInt64(exact);
  return undefined;
};

export function encodeFloat(type: "float4" | "float8"): Encoder {
  return (value, out) => {
    if (typeof value !== "number") return `is not a number, as ${type} takes`;
    // Equal keys must have equal bytes, and zero has two.
    const number = Number.isNaN(value) ? Number.NaN : value + 0;
    if (type === "float8") {
      out.int32(8);
      out.float64(number);
      return undefined;
    }
    const stored = Math.fround(number);
    if ((Number.isFinite(number) && !Number.isFinite(stored)) || (number !== 0 && stored === 0))
      return "is out of the range of float4";
    out.int32(4);
    out.float32(stored);
    return undefined;
  };
}

interface Decimal {
  readonly isNegative: boolean;
  /** Digits before and behind the point. */
  readonly whole: string;
  readonly fraction: string;
}

const mostDigits = 131_072;
const mostFraction = 16_383;

/** `scale`: digits behind the point that the column keeps, where it says so. `isKey`: 1.0 and 1 are one key. */
export function encodeNumeric(scale: number | undefined, isKey: boolean): Encoder {
  return (value, out) => {
    const read = readDecimal(value);
    if (typeof read === "string") return read;
    const significant = read.fraction.replace(/0+$/, "");
    if (scale !== undefined && scale < 0 && !/^0*$/.test(significant + read.whole.slice(scale)))
      return `has digits behind the last ${-scale} before the point, which its column would round`;
    if (scale !== undefined && significant.length > Math.max(0, scale))
      return `has more than the ${scale} decimals of its column, which would be rounded`;
    writeNumeric(out, isKey ? { ...read, fraction: significant } : read);
    return undefined;
  };
}

function readDecimal(value: unknown): Decimal | string {
  if (typeof value === "number") {
    if (!Number.isFinite(value)) return "is not a finite number";
    if (Number.isInteger(value) && !Number.isSafeInteger(value)) return collapsed;
  } else if (typeof value !== "bigint" && typeof value !== "string")
    return "is not a number, as numeric takes";
  const match = decimalText.exec(String(value));
  const [, sign, digits = "", behind = "", exponent = "0"] = match ?? [];
  if (match === null || digits.length + behind.length === 0)
    return "is not a number, as numeric takes";
  return shifted(sign === "-", digits, behind, Number(exponent));
}

function shifted(
  isNegative: boolean,
  digits: string,
  behind: string,
  by: number,
): Decimal | string {
  if (digits.length + Math.abs(by) > mostDigits || behind.length + Math.abs(by) > mostFraction)
    return "is out of the range of numeric";
  const all = digits + behind;
  const point = digits.length + by;
  const whole = point <= 0 ? "" : all.slice(0, point).padEnd(point, "0");
  const fraction = point < 0 ? "0".repeat(-point) + all : all.slice(point);
  return { isNegative, whole: whole.replace(/^0+/, ""), fraction };
}

const base = 4;

/** Digits in groups of four around the point, without empty groups at either end. */
function writeNumeric(out: RowBuffer, { isNegative, whole, fraction }: Decimal): void {
  const padded = whole.padStart(Math.ceil(whole.length / base) * base, "0");
  const behind = fraction.padEnd(Math.ceil(fraction.length / base) * base, "0");
  const groups: number[] = [];
  const text = padded + behind;
  for (let at = 0; at < text.length; at += base) groups.push(Number(text.slice(at, at + base)));
  let weight = padded.length / base - 1;
  let first = 0;
  while (first < groups.length && groups[first] === 0) {
    first += 1;
    weight -= 1;
  }
  let last = groups.length;
  while (last > first && groups[last - 1] === 0) last -= 1;
  const count = last - first;
  out.int32(8 + 2 * count);
  out.int16(count);
  out.int16(count === 0 ? 0 : weight);
  out.int16(isNegative && count > 0 ? 0x4000 : 0);
  out.int16(fraction.length);
  for (let index = first; index < last; index += 1) out.int16(groups[index] as number);
}
