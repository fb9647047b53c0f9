/** The client and the table of errors agree, in both dialects. */
import { backoffMs, isWorthRetrying } from "../../src/client/retry.js";
import { type ErrorCode, errorTable, IdempotencyError } from "../../src/core/errors.js";
import { renderError } from "../../src/http/problem.js";

const codes = Object.keys(errorTable) as ErrorCode[];

describe.each(["ietf", "stripe"] as const)("in the dialect %s", (dialect) => {
  test.each(codes)("%s is sent again where the table says that it helps", (code) => {
    const { status, headers, body } = renderError(new IdempotencyError(code), dialect);
    const text = Buffer.from(body).toString();
    const fields = headers.map(([name, value]): [string, string] => [name, String(value)]);
    expect(isWorthRetrying({ status, headers: new Headers(fields), text })).toBe(
      errorTable[code].retryable,
    );
  });
});

test("the pause is anything from nothing to the doubled delay", () => {
  const limits = { firstDelayMs: 500, maxDelayMs: 30_000 };
  expect([0, 1, 2, 10, 2_000].map((retry) => backoffMs(retry, 0.999, limits))).toEqual(
    [500, 1_000, 2_000, 30_000, 30_000].map((ms) => ms * 0.999),
  );
  expect(backoffMs(5, 0, limits)).toBe(0);
});
