/**
 * The first line and the texts of a response's head. Owns: what Node refuses in them, which it would say when the head is written:
 * after the response was stored.
 */

/** The first line of a response. */
export interface StatusLine {
  readonly status: number;
  readonly statusMessage: string | undefined;
}

/** What stands as a held response's head until it is written: truthy makes `headersSent` true and `setHeader` throw. */
export const heldHead = "held by oncekey";

const refused = /[^\t\x20-\x7e\x80-\xff]/;

/** Undefined for a text that no reason phrase and no header can carry. */
export function sendable(text: string | undefined): string | undefined {
  return text === undefined || refused.test(text) ? undefined : text;
}

/** @throws as Node's `writeHead`. */
export function checkedStatus(status: unknown): number {
  const code = Number(status);
  if (Number.isInteger(code) && code >= 100 && code <= 999) return code;
  throw Object.assign(new RangeError(`Invalid status code: ${code}`), {
    code: "ERR_HTTP_INVALID_STATUS_CODE",
  });
}

/** Undefined for none. @throws as Node's `writeHead`. */
export function checkedReason(statusMessage: string | undefined): string | undefined {
  if (!statusMessage) return undefined;
  if (!refused.test(statusMessage)) return statusMessage;
  throw Object.assign(new TypeError("Invalid character in statusMessage"), {
    code: "ERR_INVALID_CHAR",
  });
}
