/**
 * Instants and dates in the binary format of Postgres. Owns: reading texts of RFC 3339. Must never read a time without a zone, which
 * is another instant on every machine, nor a date out of an instant.
 */
import type { Encoder } from "./row-buffer.js";

/** Postgres counts from 2000-01-01. */
const epochMs = 946_684_800_000;
const dayMs = 86_400_000;
const lengthBytes = 4;
const two32 = 2 ** 32;
const instantText =
  /^(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d)(?::(\d\d)(?:[.,](\d{1,9}))?)?(?:([Zz])|([+-])(\d\d):?(\d\d)?)$/;
const dateText = /^(\d{4})-(\d\d)-(\d\d)$/;
/** Postgres' own last day; a Date reaches further. */
const lastMs = Date.UTC(275_760, 8, 12);
const firstMs = Date.UTC(-4_713, 11, 1);

/** For a column that keeps fewer decimals of a second than an instant has. */
export function encodeInstantOf(decimals: number): Encoder {
  const unit = 10 ** (6 - decimals);
  return (value, out) => {
    const start = out.at + lengthBytes;
    const problem = encodeInstant(value, out);
    if (problem !== undefined) return problem;
    // The remainder of the upper half and then of both: sums stay far below 2^53.
    const { view } = out;
    const upper = view.getInt32(start) % unit;
    if ((upper * (two32 % unit) + view.getUint32(start + 4)) % unit === 0) return undefined;
    return `has more than the ${decimals} decimals of a second of its column, which would be rounded`;
  };
}

export const encodeInstant: Encoder = (value, out) => {
  let ms: number;
  let micros = 0;
  if (value instanceof Date) ms = value.getTime();
  else if (typeof value === "string") {
    ms = usualMs(value);
    if (Number.isNaN(ms)) {
      const match = instantText.exec(value);
      if (match === null) return "is not a time with a zone (RFC 3339)";
      ms = msOf(match);
      micros = Math.round(Number(`0.${match[7] ?? "0"}`) * 1e6);
    }
  } else return "is not a Date or a time with a zone (RFC 3339)";
  if (Number.isNaN(ms)) return "is not a time that exists";
  if (ms < firstMs || ms > lastMs) return "is out of the range of timestamptz";
  const sinceEpochMs = ms - epochMs;
  out.int32(8);
  const exact = sinceEpochMs * 1_000 + micros;
  if (Number.isSafeInteger(exact)) out.int64(exact);
  else out.bigInt64(BigInt(sinceEpochMs) * 1_000n + BigInt(micros));
  return undefined;
};

const usualLength = "2026-01-31T23:59:59.999Z".length;

/** Of the form that JavaScript writes, without a pattern; NaN for every other text, right or wrong. */
function usualMs(text: string): number {
  if (text.length !== usualLength || text.charCodeAt(usualLength - 1) !== 0x5a) return Number.NaN;
  if (
    text.charCodeAt(4) !== 0x2d ||
    text.charCodeAt(7) !== 0x2d ||
    text.charCodeAt(10) !== 0x54 ||
    text.charCodeAt(13) !== 0x3a ||
    text.charCodeAt(16) !== 0x3a ||
    text.charCodeAt(19) !== 0x2e
  )
    return Number.NaN;
  const [century, ofCentury] = [twoDigits(text, 0), twoDigits(text, 2)];
  const [month, day] = [twoDigits(text, 5), twoDigits(text, 8)];
  const [hour, minute] = [twoDigits(text, 11), twoDigits(text, 14)];
  const [second, centisecond] = [twoDigits(text, 17), twoDigits(text, 20)];
  const last = text.charCodeAt(22) - 0x30;
  const year = century * 100 + ofCentury;
  if (century > 99 || ofCentury > 99 || centisecond > 99 || last < 0 || last > 9) return Number.NaN;
  // Days that not every month has are for the slow way to judge.
  const isUsual = year >= 1 && month >= 1 && month <= 12 && day >= 1 && day <= 28;
  if (!isUsual || hour > 23 || minute > 59 || second > 59) return Number.NaN;
  const ofDay = ((hour * 60 + minute) * 60 + second) * 1_000 + centisecond * 10 + last;
  return daysSince1970(year, month, day) * dayMs + ofDay;
}

/** 100, which no part of a time is, where there is something else than digits. */
function twoDigits(text: string, at: number): number {
  const tens = text.charCodeAt(at) - 0x30;
  const ones = text.charCodeAt(at + 1) - 0x30;
  return tens < 0 || tens > 9 || ones < 0 || ones > 9 ? 100 : tens * 10 + ones;
}

/** Howard Hinnant's days_from_civil: years that begin in March end with the leap day. */
function daysSince1970(year: number, month: number, day: number): number {
  const y = month <= 2 ? year - 1 : year;
  const era = Math.floor(y / 400);
  const ofEra = y - era * 400;
  const ofYear = Math.floor((153 * (month + (month > 2 ? -3 : 9)) + 2) / 5) + day - 1;
  return (
    era * 146_097 + ofEra * 365 + Math.floor(ofEra / 4) - Math.floor(ofEra / 100) + ofYear - 719_468
  );
}

/** Whole seconds of the text, in ms since 1970. */
function msOf(match: RegExpExecArray): number {
  const [
    ,
    year,
    month,
    day,
    hour,
    minute,
    second = "0",
    ,
    ,
    sign,
    zoneHour = "0",
    zoneMinute = "0",
  ] = match;
  const days = daysOf(Number(year), Number(month), Number(day));
  if (Number(hour) > 23 || Number(minute) > 59 || Number(second) > 59) return Number.NaN;
  if (Number(zoneHour) > 15 || Number(zoneMinute) > 59) return Number.NaN;
  const zone = (Number(zoneHour) * 60 + Number(zoneMinute)) * (sign === "-" ? -1 : 1);
  return days + ((Number(hour) * 60 + Number(minute) - zone) * 60 + Number(second)) * 1_000;
}

/** NaN for a day that no calendar has, such as 31 February, which Date would move to March. */
function daysOf(year: number, month: number, day: number): number {
  const date = new Date(0);
  date.setUTCFullYear(year, month - 1, day);
  const exists = year > 0 && date.getUTCMonth() === month - 1 && date.getUTCDate() === day;
  return exists ? date.getTime() : Number.NaN;
}

export const encodeDate: Encoder = (value, out) => {
  const match = typeof value === "string" ? dateText.exec(value) : null;
  if (match === null) return "is not a date as YYYY-MM-DD; a Date is another day elsewhere";
  const ms = daysOf(Number(match[1]), Number(match[2]), Number(match[3]));
  if (Number.isNaN(ms)) return "is not a day that exists";
  out.int32(4);
  out.int32((ms - epochMs) / dayMs);
  return undefined;
};
