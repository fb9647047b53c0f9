/**
 * JSON records as they come out of a body, some at a time. Owns: turning one text into a value, and what is said of a text that is
 * none. Must never let a bad record cost its neighbours, and never repeat what a record holds.
 */
import { isSafeNumber, parse } from "lossless-json";

/** Why a record could not be read, or was refused. */
export type RecordFaultCode =
  /** The text is no JSON. */
  | "not_json"
  /** The record is longer than the limit; the reader went on behind it. */
  | "line_too_long"
  /** The bytes are no UTF-8: decoding them would make different texts equal. */
  | "invalid_utf8"
  /** A NUL, as a byte or escaped; Postgres' text has none. */
  | "nul"
  /** A number with more digits than a double holds: two different ones would look the same. */
  | "number_not_exact"
  /** What a schema says of a value that was read; see the field and the reason. */
  | "missing"
  | "wrong_type"
  | "out_of_range"
  | "not_storable"
  | "unknown_field"
  /** An id that changes on every run: a counter or a time. */
  | "id_weak"
  /** Postgres refused the row. */
  | "refused";

/** One record that was not taken. Carries names of fields and no values. */
export interface RecordFault {
  /** Line of the body on which the record begins, from 1. */
  readonly line: number;
  readonly code: RecordFaultCode;
  /** Where in the record, such as `amount`; absent where the record as a whole is meant. */
  readonly field?: string;
  readonly reason: string;
}

/** What one piece of a body held. */
export interface RecordBlock {
  readonly values: unknown[];
  /** Of each value, the line on which it begins. */
  readonly lines: number[];
  readonly faults: RecordFault[];
}

export function emptyBlock(): RecordBlock {
  return { values: [], lines: [], faults: [] };
}

/**
 * Finds texts that may hold a number which a double cannot: one of 16 digits and more, or with an exponent. A number stands behind
 * a colon, a comma or a bracket; ids in quotation marks are not meant.
 */
export const mayBeInexact = /[:,[]\s*-?\d(?:[\d.]{15}|[\d.]*[eE])/;

/** Parses the text of one record into the block. `isSuspect`: the text may hold a number that is not exact. */
export function addRecord(
  block: RecordBlock,
  text: string,
  line: number,
  isSuspect: boolean,
): void {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    block.faults.push(unparsable(text, line));
    return;
  }
  if (isSuspect && mayBeInexact.test(text)) {
    const fault = inexactNumber(text, line);
    if (fault !== undefined) {
      block.faults.push(fault);
      return;
    }
  }
  block.values.push(value);
  block.lines.push(line);
}

function unparsable(text: string, line: number): RecordFault {
  if (text.includes("\0")) return { line, code: "nul", reason: "holds a NUL byte" };
  return { line, code: "not_json", reason: "is not valid JSON" };
}

/** Slow, and asked only where the cheap look has found something. */
function inexactNumber(text: string, line: number): RecordFault | undefined {
  const inexact = Symbol("inexact");
  let field: string | undefined;
  let found = false;
  try {
    parse(
      text,
      (name: string, value: unknown) => {
        if (value !== inexact) return value;
        found = true;
        field ??= name;
        return null;
      },
      {
        parseNumber: (digits) => (isSafeNumber(digits) ? Number(digits) : inexact),
        onDuplicateKey: ({ newValue }) => newValue,
      },
    );
  } catch {
    // JSON.parse has taken it; what is too deep for this parser is nothing that anybody sends.
    return { line, code: "not_json", reason: "is nested too deeply" };
  }
  if (!found) return undefined;
  const reason = "is a number that cannot be held exactly; send it as a text";
  return {
    line,
    code: "number_not_exact",
    ...(field === undefined || field === "" ? {} : { field: field.slice(0, 100) }),
    reason,
  };
}
