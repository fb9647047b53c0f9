import { readFileSync } from "node:fs";

import { errorTable, IdempotencyError } from "../../src/core/errors.js";
import type { ErrorCode, ErrorDetails } from "../../src/core/errors.js";
import { renderError } from "../../src/http/problem.js";
import type { Dialect } from "../../src/http/problem.js";

function rendered(dialect: Dialect, code: ErrorCode, details?: ErrorDetails) {
  const { status, headers, body } = renderError(new IdempotencyError(code, details), dialect);
  return {
    status,
    headers,
    body: JSON.parse(Buffer.from(body).toString()) as Record<string, unknown>,
  };
}

describe("a problem document", () => {
  test("names the fields that differ", () => {
    expect(rendered("ietf", "key_reused", { differs: ["body.amount"] })).toEqual({
      status: 422,
      headers: [
        ["Content-Type", "application/problem+json"],
        ["Cache-Control", "no-store"],
      ],
      body: {
        type: "https://oncekey.dev/errors#key_reused",
        title: "Idempotency-Key was used for another request",
        status: 422,
        detail:
          "The key belongs to a different request. Send the original request again, or use a new key for this one.",
        code: "key_reused",
        retryable: false,
        differs: ["body.amount"],
      },
    });
  });

  test("says when to come back", () => {
    const { status, headers, body } = rendered("ietf", "in_progress", { retryAfterSeconds: 1 });
    expect(status).toBe(409);
    expect(headers).toEqual([
      ["Content-Type", "application/problem+json"],
      ["Cache-Control", "no-store"],
      ["Retry-After", "1"],
    ]);
    expect(body).toEqual({
      type: "https://oncekey.dev/errors#in_progress",
      title: "A request with this Idempotency-Key is still running",
      status: 409,
      detail: "Wait for the time in Retry-After and send the same request with the same key again.",
      code: "in_progress",
      retryable: true,
    });
  });

  test("says what is special about this case", () => {
    expect(rendered("ietf", "key_invalid", { detail: "The header is empty." }).body).toMatchObject({
      title: "Idempotency-Key is not valid",
      detail: "The header is empty.",
    });
  });
});

describe("Stripe's envelope", () => {
  test("of a mismatch", () => {
    expect(rendered("stripe", "key_reused", { differs: ["body.amount"] })).toEqual({
      status: 400,
      headers: [
        ["Content-Type", "application/json"],
        ["Cache-Control", "no-store"],
        ["Stripe-Should-Retry", "false"],
      ],
      body: {
        error: {
          type: "idempotency_error",
          code: "idempotency_error",
          message:
            "The key belongs to a different request. Send the original request again, or use a new key for this one.",
          doc_url: "https://oncekey.dev/errors#key_reused",
          differs: ["body.amount"],
        },
      },
    });
  });

  test("of a key in use", () => {
    expect(rendered("stripe", "in_progress", { retryAfterSeconds: 2 })).toEqual({
      status: 409,
      headers: [
        ["Content-Type", "application/json"],
        ["Cache-Control", "no-store"],
        ["Stripe-Should-Retry", "true"],
        ["Retry-After", "2"],
      ],
      body: {
        error: {
          type: "invalid_request_error",
          code: "idempotency_key_in_use",
          message:
            "Wait for the time in Retry-After and send the same request with the same key again.",
          doc_url: "https://oncekey.dev/errors#in_progress",
        },
      },
    });
  });

  test.each<[ErrorCode, number, string, string]>([
    ["key_missing", 400, "invalid_request_error", "false"],
    ["key_invalid", 400, "invalid_request_error", "false"],
    ["outcome_unknown", 409, "invalid_request_error", "false"],
    ["key_expired", 409, "invalid_request_error", "false"],
    ["response_not_stored", 409, "invalid_request_error", "false"],
    ["store_unavailable", 503, "api_error", "true"],
  ])("of %s", (code, status, type, shouldRetry) => {
    const { headers, body, ...rest } = rendered("stripe", code);
    expect(rest.status).toBe(status);
    expect(headers).toContainEqual(["Stripe-Should-Retry", shouldRetry]);
    expect(body).toMatchObject({ error: { type, code } });
  });
});

describe.each<Dialect>(["ietf", "stripe"])("in the dialect %s", (dialect) => {
  test.each(Object.keys(errorTable) as ErrorCode[])("%s shows nothing of its cause", (code) => {
    const cause = new Error("password authentication failed for user 4242");
    const { body } = renderError(new IdempotencyError(code, { cause }), dialect);
    expect(Buffer.from(body).toString()).not.toContain("4242");
  });
});

test("docs/errors.md tells where the Stripe dialect differs", () => {
  const page = readFileSync("docs/errors.md", "utf8");
  for (const code of Object.keys(errorTable) as ErrorCode[]) {
    const [, section = ""] = new RegExp(`^## ${code}\n\n(.*)$`, "m").exec(page) ?? [];
    const { status, body } = rendered("stripe", code);
    const { error } = body as { error: { code: string } };
    const isOther = status !== errorTable[code].status || error.code !== code;
    expect([code, section.includes("In the Stripe dialect:")]).toEqual([code, isOther]);
    expect(section).toContain(isOther ? `\`${error.code}\`` : `Status ${status}`);
    expect(section.toLowerCase()).toContain(`status ${status}`);
  }
});
