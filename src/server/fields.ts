/**
 * The fields of requests. Owns: the shapes that several requests share, and how what is wrong with a request is told: every
 * field at once, by name, and never a value.
 */
import { z } from "zod";
import { ApiError } from "./wire.js";
import type { FieldError } from "./wire.js";

/** An answer helps its reader and stays small, whatever was sent: names of unknown fields are the sender's. */
const maxFieldErrors = 20;
const maxFieldName = 100;

/** Postgres' text has no NUL, and its JSON no half of a surrogate pair: refused here rather than failing there. */
const notStorable = /\0|\p{Surrogate}/u;

/** Text that Postgres can hold. */
export function textOf(most: number): z.ZodType<string> {
  return z
    .string("must be a string")
    .min(1, "must not be empty")
    .max(most, `must have at most ${most} characters`)
    .refine((text) => !notStorable.test(text), "must not hold NUL or broken Unicode");
}

/** Integer of a JSON body; in a form, where everything is text, its plain decimal digits. */
export function integerOf(least: number, most: number): z.ZodType<number> {
  const message = `must be an integer from ${least} to ${most}`;
  return z.int(message).min(least, message).max(most, message);
}

/** An ISO 4217 code in either case; stored in lower case, as Stripe does. */
export const currencyShape = z
  .string("must be a currency code of three letters")
  .regex(/^[A-Za-z]{3}$/, "must be a currency code of three letters")
  .transform((code) => code.toLowerCase());

/** Turns the plain decimal digits of a form's field into a number; whatever else is there is left for the schema to refuse. */
export function fromForm(value: unknown): unknown {
  return typeof value === "string" && /^\d{1,15}$/.test(value) ? Number(value) : value;
}

/**
 * Holds a value against a schema.
 *
 * @throws `invalid_request` that names every field that is wrong, and no value.
 */
export function parseOrRefuse<Output>(schema: z.ZodType<Output>, value: unknown): Output {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const errors = result.error.issues.flatMap(toFieldErrors).slice(0, maxFieldErrors);
  const names = errors.map(({ field, message }) => `${field} ${message}`);
  throw new ApiError("invalid_request", `${names.join("; ")}.`, { errors });
}

function toFieldErrors(issue: z.core.$ZodIssue): FieldError[] {
  if (issue.code === "unrecognized_keys") {
    return issue.keys.map((key) => ({
      field: nameOf([...issue.path, key]),
      message: "is not a known parameter",
    }));
  }
  const inName = issue.code === "invalid_key" ? issue.issues[0] : undefined;
  const message = inName === undefined ? issue.message : `has a name that ${inName.message}`;
  return [{ field: nameOf(issue.path), message }];
}

/** `items[0].sku`, as the differing fields of a reused key are written too. */
function nameOf(path: readonly PropertyKey[]): string {
  if (path.length === 0) return "body";
  return path
    .map((part, index) =>
      typeof part === "number" ? `[${part}]` : `${index === 0 ? "" : "."}${String(part)}`,
    )
    .join("")
    .slice(0, maxFieldName);
}
