/**
 * What an event is. Owns: its fields, and what is said of one that is none. Written by hand and not as a schema of a library, since
 * a hundred thousand of them come in a second; openapi.yaml says the same, and a test holds the two together.
 */
import { weakEventId } from "../pipeline.js";
import type { RecordFault } from "../pipeline.js";
import type { Account } from "./config.js";

/** A row of the table `events`, and where it came from. */
export interface EventRow {
  readonly event_id: string;
  readonly account: string;
  readonly livemode: boolean;
  readonly merchant_id: string;
  readonly amount: number;
  readonly currency: string;
  readonly occurred_at: string;
  readonly version: number;
  /** Not stored: the line of the upload, and the upload, for what Postgres says of the row. */
  readonly line: number;
  readonly upload: Refusals;
}

/** Takes what is wrong with an upload. */
export interface Refusals {
  refuse(fault: RecordFault): void;
}

const maxIdLength = 255;
const maxMerchantLength = 64;
/** In either direction: a refund is an event with a negative amount. Nine thousand of the largest add up exactly in a double. */
const maxAmount = 1_000_000_000_000;
const fields = new Set(["event_id", "merchant_id", "amount", "currency", "occurred_at", "version"]);
const currencyForm = /^[A-Za-z]{3}$/;
/** RFC 3339, section 5.6, with the zone that it demands; seconds of a day that exist are checked by Date. */
const instantForm = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,6})?(?:Z|[+-]\d\d:\d\d)$/;
/** Postgres' text holds no NUL, and its UTF-8 no half of a surrogate pair. */
const notStorable = /[\0\ud800-\udfff]/;
const surrogate = /\p{Surrogate}/u;

type Problem = Omit<RecordFault, "line">;

/** Reads one event. What is not one is told to the upload, by its first field at fault. */
export function readEvent(
  value: unknown,
  line: number,
  { account, livemode, upload }: { account: string; livemode: boolean; upload: Refusals },
): EventRow | undefined {
  const problem = problemOf(value);
  if (problem !== undefined) {
    upload.refuse({ line, ...problem });
    return undefined;
  }
  const event = value as Record<string, string> & { amount: number; version?: number };
  return {
    event_id: event["event_id"] as string,
    account,
    livemode,
    merchant_id: event["merchant_id"] as string,
    amount: event.amount,
    currency: (event["currency"] as string).toLowerCase(),
    occurred_at: event["occurred_at"] as string,
    version: event.version ?? 0,
    line,
    upload,
  };
}

/** The tenant of the rows of one upload. */
export function ownerOf(account: Account, upload: Refusals) {
  return { account: account.id, livemode: account.livemode, upload };
}

function problemOf(value: unknown): Problem | undefined {
  if (typeof value !== "object" || value === null || Array.isArray(value))
    return { code: "wrong_type", reason: "must be an object" };
  const event = value as Record<string, unknown>;
  return (
    idProblem(event["event_id"]) ??
    textProblem("merchant_id", event["merchant_id"], maxMerchantLength) ??
    integerProblem("amount", event["amount"], -maxAmount, maxAmount) ??
    currencyProblem(event["currency"]) ??
    timeProblem(event["occurred_at"]) ??
    (event["version"] === undefined
      ? undefined
      : integerProblem("version", event["version"], 0, Number.MAX_SAFE_INTEGER)) ??
    strangeField(event)
  );
}

function idProblem(id: unknown): Problem | undefined {
  // A number as an id is a counter or a time more often than not, and worth the better word.
  if (typeof id === "number" && weakEventId(id) !== undefined) return weakProblem;
  const problem = textProblem("event_id", id, maxIdLength);
  if (problem !== undefined) return problem;
  // No counter and no time is as long as a UUID.
  if ((id as string).length < 36 && weakEventId(id as string) !== undefined) return weakProblem;
  return undefined;
}

const weakProblem: Problem = {
  field: "event_id",
  code: "id_weak",
  reason:
    "looks like a counter or a clock time, which another run would change; name the business event",
};

function textProblem(field: string, value: unknown, most: number): Problem | undefined {
  if (value === undefined || value === null)
    return { field, code: "missing", reason: "is missing" };
  if (typeof value !== "string") return { field, code: "wrong_type", reason: "must be a string" };
  if (value === "") return { field, code: "missing", reason: "must not be empty" };
  // JSON Schema counts characters; the cheap look is at their halves.
  if (value.length > most && Array.from(value.slice(0, 2 * most + 1)).length > most)
    return { field, code: "out_of_range", reason: `must have at most ${most} characters` };
  // The first look is cheap; whole pairs pass the second one.
  if (notStorable.test(value)) {
    if (value.includes("\0")) return { field, code: "nul", reason: "must not hold NUL" };
    if (surrogate.test(value))
      return { field, code: "not_storable", reason: "must not hold half a character" };
  }
  return undefined;
}

function integerProblem(
  field: string,
  value: unknown,
  least: number,
  most: number,
): Problem | undefined {
  if (value === undefined || value === null)
    return { field, code: "missing", reason: "is missing" };
  if (typeof value !== "number") return { field, code: "wrong_type", reason: "must be a number" };
  if (!Number.isInteger(value)) return { field, code: "wrong_type", reason: "must be an integer" };
  if (value < least || value > most)
    return { field, code: "out_of_range", reason: `must be from ${least} to ${most}` };
  return undefined;
}

function currencyProblem(value: unknown): Problem | undefined {
  const field = "currency";
  if (value === undefined || value === null)
    return { field, code: "missing", reason: "is missing" };
  if (typeof value === "string" && currencyForm.test(value)) return undefined;
  return { field, code: "wrong_type", reason: "must be a currency code of three letters" };
}

function timeProblem(value: unknown): Problem | undefined {
  const field = "occurred_at";
  if (value === undefined || value === null)
    return { field, code: "missing", reason: "is missing" };
  if (typeof value !== "string" || !instantForm.test(value)) {
    const reason = "must be a time with a zone, such as 2026-01-31T12:00:00Z (RFC 3339)";
    return { field, code: "wrong_type", reason };
  }
  return isDay(value)
    ? undefined
    : { field, code: "out_of_range", reason: "is no time that exists" };
}

const daysOfMonth = [31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];

/** The form is known to be right. By character codes, since a slice for each field would be what most of the time goes to. */
function isDay(text: string): boolean {
  const year = twoDigits(text, 0) * 100 + twoDigits(text, 2);
  const month = twoDigits(text, 5);
  const day = twoDigits(text, 8);
  const isLeap = (year % 4 === 0 && year % 100 !== 0) || year % 400 === 0;
  if (year === 0 || day === 0 || day > (daysOfMonth[month - 1] ?? 0)) return false;
  if (month === 2 && day === 29 && !isLeap) return false;
  if (twoDigits(text, 11) > 23 || twoDigits(text, 14) > 59 || twoDigits(text, 17) > 59)
    return false;
  const { length } = text;
  if (text.charCodeAt(length - 1) === letterZ) return true;
  return twoDigits(text, length - 5) <= 15 && twoDigits(text, length - 2) <= 59;
}

const letterZ = 0x5a;
const zeroes = 11 * 0x30;

function twoDigits(text: string, at: number): number {
  return text.charCodeAt(at) * 10 + text.charCodeAt(at + 1) - zeroes;
}

function strangeField(event: Readonly<Record<string, unknown>>): Problem | undefined {
  for (const name in event) {
    if (!fields.has(name))
      return { field: name.slice(0, 100), code: "unknown_field", reason: "is not a known field" };
  }
  return undefined;
}
