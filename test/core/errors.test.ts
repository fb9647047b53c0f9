import { readFileSync } from "node:fs";

import { errorTable, IdempotencyError, isIdempotencyError } from "../../src/core/errors.js";
import type { ErrorCode } from "../../src/core/errors.js";

const codes = Object.keys(errorTable) as ErrorCode[];

describe("an error", () => {
  test("says what its code says", () => {
    const error = new IdempotencyError("key_reused", { differs: ["body.amount"] });
    expect(error).toBeInstanceOf(Error);
    expect(error.message).toBe(errorTable.key_reused.help);
    expect(Object.fromEntries(Object.entries(error))).toEqual({
      name: "IdempotencyError",
      code: "key_reused",
      status: 422,
      retryable: false,
      title: "Idempotency-Key was used for another request",
      help: errorTable.key_reused.help,
      type: "https://oncekey.dev/errors#key_reused",
      differs: ["body.amount"],
      retryAfterSeconds: undefined,
    });
  });

  test("has a detail, a cause and a time to come back where they are given", () => {
    const cause = new Error("connection reset");
    const error = new IdempotencyError("store_unavailable", {
      detail: "Not now.",
      cause,
      retryAfterSeconds: 1,
    });
    expect(error).toMatchObject({
      message: "Not now.",
      cause,
      retryAfterSeconds: 1,
      retryable: true,
    });
    expect("cause" in new IdempotencyError("store_unavailable")).toBe(false);
  });

  test.each(codes)(
    "%s has a status of HTTP, a title without an end and help in sentences",
    (code) => {
      const { status, title, help } = errorTable[code];
      expect([400, 409, 413, 422, 500, 503, 504]).toContain(status);
      expect(title).toMatch(/^[A-Z].*[^.]$/);
      expect(help).toMatch(/\.$/);
    },
  );
});

describe("the guard", () => {
  test("knows the errors of another copy of the module", () => {
    let Other: typeof IdempotencyError | undefined;
    let otherGuard: typeof isIdempotencyError | undefined;
    jest.isolateModules(() => {
      const copy = jest.requireActual<typeof import("../../src/core/errors.js")>(
        "../../src/core/errors.js",
      );
      Other = copy.IdempotencyError;
      otherGuard = copy.isIdempotencyError;
    });
    if (Other === undefined || otherGuard === undefined) throw new Error("there is no other copy");
    const foreign: unknown = new Other("in_progress");
    expect(foreign).not.toBeInstanceOf(IdempotencyError);
    expect(isIdempotencyError(foreign)).toBe(true);
    expect(otherGuard(new IdempotencyError("in_progress"))).toBe(true);
  });

  test.each([
    undefined,
    null,
    "key_reused",
    5,
    {},
    new Error("x"),
    { code: "key_reused", status: 422 },
  ])("does not take %p for one", (value) => {
    expect(isIdempotencyError(value)).toBe(false);
  });

  test("is not fooled by what went through JSON", () => {
    const copy: unknown = JSON.parse(JSON.stringify(new IdempotencyError("in_progress")));
    expect(isIdempotencyError(copy)).toBe(false);
  });
});

describe("docs/errors.md", () => {
  const page = readFileSync("docs/errors.md", "utf8");
  const sections = new Map(
    page
      .split(/^## /m)
      .slice(1)
      .map((section) => {
        const end = section.indexOf("\n");
        return [section.slice(0, end), section.slice(end)] as const;
      }),
  );

  test("has a heading for every code and no other, which is the anchor that `type` points at", () => {
    expect([...sections.keys()].sort()).toEqual([...codes].sort());
    for (const code of codes) expect(new IdempotencyError(code).type.split("#")[1]).toBe(code);
  });

  test.each(codes)("says of %s what the table says, when it comes and what to do", (code) => {
    const { status, retryable } = errorTable[code];
    const section = sections.get(code) ?? "";
    const expected = `Status ${status}, ${retryable ? "retryable" : "not retryable"}`;
    expect(section.trim().startsWith(expected)).toBe(true);
    expect(section).toMatch(/^\*\*When\.\*\* [^]+^\*\*What to do\.\*\* [^]+\.\s*$/m);
  });

  test("shows a document as it is sent", () => {
    const [, shown = ""] = /```json\n([^]*?)```/.exec(page) ?? [];
    const {
      type,
      title,
      status,
      message: detail,
      retryable,
      differs,
    } = new IdempotencyError("key_reused", {
      differs: ["body.amount"],
    });
    expect(JSON.parse(shown)).toEqual({
      type,
      title,
      status,
      detail,
      code: "key_reused",
      retryable,
      differs,
    });
  });
});
