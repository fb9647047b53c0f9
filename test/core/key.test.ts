import fc from "fast-check";

import { headerLines, nameOf, parseKey, weakness } from "../../src/core/key.js";

/** Printable ASCII without the quotation mark and without white space at either end. */
const bareKey = fc
  .string({ unit: "binary-ascii", minLength: 1, maxLength: 255 })
  .map((text) => text.replaceAll(/[^!#-~]/g, "k"));

describe("keys", () => {
  test.each([
    ["abc", "abc"],
    ['"abc"', "abc"],
    [" \tabc\t ", "abc"],
    [' "abc" ', "abc"],
    ["a b", "a b"],
    ['"a b"', "a b"],
    ['" a "', " a "],
    ['"a\\"b"', 'a"b'],
    ['"a\\\\b"', "a\\b"],
    ["a\\b", "a\\b"],
    ['"abc";p=1', "abc"],
    ['"abc"; p="x y";q', "abc"],
    ["abc;p=1", "abc;p=1"],
    ["a, b", "a, b"],
    ["'abc'", "'abc'"],
    ["8e03978e-40d5-43e8-bc93-6894a57f9324", "8e03978e-40d5-43e8-bc93-6894a57f9324"],
    ["!~", "!~"],
    ["k".repeat(255), "k".repeat(255)],
    [`"${"k".repeat(255)}"`, "k".repeat(255)],
    [`"${'\\"'.repeat(255)}"`, '"'.repeat(255)],
  ])("%j is the key %j", (line, key) => {
    expect(parseKey([line])).toMatchObject({ kind: "key", key });
  });

  test("the bare and the quoted form of one text are one key", () => {
    fc.assert(
      fc.property(bareKey, (key) => {
        const quoted = `"${key.replaceAll("\\", "\\\\")}"`;
        expect(parseKey([key])).toEqual({ kind: "key", key, sent: key });
        expect(parseKey([quoted])).toEqual({ kind: "key", key, sent: quoted });
      }),
    );
  });

  test("what was sent is kept to be echoed, without the white space around it", () => {
    expect(parseKey([' "abc";p=1 '])).toEqual({ kind: "key", key: "abc", sent: '"abc";p=1' });
  });

  test("a key is case-sensitive", () => {
    expect(parseKey(["Abc"])).toMatchObject({ key: "Abc" });
  });
});

describe("what is refused", () => {
  test("no header is missing, and not invalid", () => {
    expect(parseKey([])).toEqual({ kind: "missing" });
  });

  test.each<[string[], string]>([
    [["abc", "abc"], "The header was sent more than once."],
    [["abc", "def"], "The header was sent more than once."],
    [["", "abc"], "The header was sent more than once."],
    [[""], "The header is empty."],
    [[" \t "], "The header is empty."],
    [['""'], "The key is empty."],
    [['abc"'], "A quotation mark stands inside a bare key."],
    [['a"b'], "A quotation mark stands inside a bare key."],
    [['?1;x="a"'], "A quotation mark stands inside a bare key."],
    [['"abc'], "The quoted form is malformed."],
    [['"'], "The quoted form is malformed."],
    [['"abc"x'], "The quoted form is malformed."],
    [['"abc" ;p=1'], "The quoted form is malformed."],
    [['"abc", "def"'], "The quoted form is malformed."],
    [['"a\\b"'], "The quoted form is malformed."],
    [['"abc\\"'], "The quoted form is malformed."],
    [['"abc";P=1'], "The quoted form is malformed."],
    [['"é"'], "The quoted form is malformed."],
    [['"a\tb"'], "The quoted form is malformed."],
    [["é"], "The key has a character outside printable ASCII."],
    [["a\tb"], "The key has a character outside printable ASCII."],
    [["a\u0000b"], "The key has a character outside printable ASCII."],
    [["a\u007fb"], "The key has a character outside printable ASCII."],
    [["\u00a0abc"], "The key has a character outside printable ASCII."],
    [["abc\u00a0"], "The key has a character outside printable ASCII."],
    [["k".repeat(256)], "The key has more than 255 characters."],
    [[`"${"k".repeat(256)}"`], "The key has more than 255 characters."],
  ])("%j", (lines, detail) => {
    expect(parseKey(lines)).toEqual({ kind: "invalid", detail });
  });

  test("whatever is sent, the answer is a key within the limits or a refusal, and nothing is thrown", () => {
    fc.assert(
      fc.property(fc.array(fc.string({ unit: "binary" }), { maxLength: 3 }), (lines) => {
        const parsed = parseKey(lines);
        const isKey = parsed.kind === "key" && /^[\x20-\x7e]{1,255}$/.test(parsed.key);
        const expected = isKey ? "key" : lines.length === 0 ? "missing" : "invalid";
        expect(parsed.kind).toBe(expected);
      }),
    );
  });
});

test("header lines are found in any case, in order, and none is joined or dropped", () => {
  const raw = [
    "Host",
    "a",
    "Idempotency-Key",
    "1",
    "idempotency-key",
    "2",
    "X-Idempotency-Key",
    "3",
  ];
  expect(headerLines(raw, "idempotency-key")).toEqual(["1", "2"]);
  expect(headerLines(raw, "absent")).toEqual([]);
});

describe("keys that will hurt", () => {
  test.each([
    ["1", "small_integer"],
    ["000123", "small_integer"],
    ["999999999", "small_integer"],
    ["1767225600", "unix_time"],
    ["1767225600123", "unix_time"],
    ["1767225600123456", "unix_time"],
    ["1767225600123456789", "unix_time"],
    ["1767225600.25", "unix_time"],
    ["2026-01-01", "iso_time"],
    ["2026-01-01T00:00:00Z", "iso_time"],
    ["2026-01-01 00:00", "iso_time"],
    ["2026-01-01t00:00:00.123z", "iso_time"],
    ["2026-01-01T00:00:00+05:30", "iso_time"],
    ["2026-01-01T0000", "iso_time"],
  ])("%s looks like %s", (key, expected) => {
    expect(weakness(key)).toBe(expected);
  });

  test.each([
    "order-1042",
    "8e03978e-40d5-43e8-bc93-6894a57f9324",
    "01ARZ3NDEKTSV4RRFFQ69G5FAV",
    "4242424242424242",
    "0123456789",
    "20260101123456789012345",
    "2026-01-01-acme",
    "acme:2026-01-01",
    "1e5",
    "-1",
  ])("%s does not", (key) => {
    expect(weakness(key)).toBeUndefined();
  });
});

describe("the name of a key in its scope", () => {
  test("is the length of the scope, the scope and the key", () => {
    expect(nameOf({ scope: "acme", key: "k1" })).toBe("4:acmek1");
  });

  test("is another one for every other pair", () => {
    expect(nameOf({ scope: "a", key: "bc" })).not.toBe(nameOf({ scope: "ab", key: "c" }));
    const part = fc.string({ unit: fc.constantFrom("1", ":", "a"), maxLength: 6 });
    fc.assert(
      fc.property(part, part, part, part, (scope, key, otherScope, otherKey) => {
        const isSame = scope === otherScope && key === otherKey;
        const names = [nameOf({ scope, key }), nameOf({ scope: otherScope, key: otherKey })];
        expect(names[0] === names[1]).toBe(isSame);
      }),
    );
  });
});
