import { spawnSync } from "node:child_process";

import { parse } from "lossless-json";

import { parseKey, weakness } from "../../src/core/key.js";
import { stableKey, weakEventId } from "../../src/pipeline.js";
import type { KeyPart } from "../../src/pipeline.js";
import { blocksOf } from "../docs/documents.js";

type Vector = { readonly parts: { readonly [name: string]: KeyPart }; readonly key: string };

const [block] = blocksOf("docs/stable-key.md").filter(({ language }) => language === "json");
const text = block?.text ?? "";
const integer = (digits: string): number | bigint =>
  Number.isSafeInteger(Number(digits)) ? Number(digits) : BigInt(digits);
const vectors = parse(text, undefined, integer) as readonly Vector[];

describe("docs/stable-key.md", () => {
  test("has at least 30 examples, and one of each key but for the order of names", () => {
    expect(vectors.length).toBeGreaterThanOrEqual(30);
    expect(new Set(vectors.map(({ key }) => key)).size).toBe(vectors.length - 1);
  });

  test.each(vectors.map(({ parts, key }) => [key, parts] as const))("%s", (key, parts) => {
    expect(stableKey(parts)).toBe(key);
  });

  // Where there is no Python the examples above are what other languages are checked by.
  const hasPython = spawnSync("python3", ["--version"]).status === 0;
  if (hasPython)
    test("says enough for another language to make the same keys", () => {
      const { stdout, stderr } = spawnSync("python3", ["test/pipeline/stable_key.py"], {
        input: text,
        encoding: "utf8",
        env: { ...process.env, PYTHONIOENCODING: "utf-8" },
      });
      expect(stderr).toBe("");
      expect(stdout.trim().split("\n")).toEqual(vectors.map(({ key }) => key));
    });
});

describe("a stable key", () => {
  test("is a key of the header, and not a weak one", () => {
    const key = stableKey({ order: "A-17", line: 3 });
    expect(parseKey([key])).toEqual({ kind: "key", key, sent: key });
    expect(weakness(key)).toBeUndefined();
  });

  test("does not depend on the order of names, the sign of zero, or bigint where a number does", () => {
    expect(stableKey({ a: 1, b: { d: 2, c: 3 } })).toBe(stableKey({ b: { c: 3, d: 2 }, a: 1 }));
    expect(stableKey({ n: -0 })).toBe(stableKey({ n: 0n }));
  });

  test("takes a Date for its instant", () => {
    const at = new Date("2026-02-01T00:59:59.999+01:00");
    expect(stableKey({ at })).toBe(stableKey({ at: "2026-01-31T23:59:59.999Z" }));
  });

  test("tells apart what looks alike when it is joined", () => {
    expect(stableKey({ a: "x", b: "y" })).not.toBe(stableKey({ a: 'x","b":"y' }));
    expect(stableKey({ a: ["b"] })).not.toBe(stableKey({ a: "b" }));
  });
});

class Order {
  readonly id = 1;
}
const cycle: Record<string, unknown> = {};
cycle["self"] = cycle;

test.each<[string, unknown, string]>([
  ["nothing", {}, "The key has no parts."],
  ["a text", "order", "stableKey takes an object of named parts."],
  ["a list", ["a"], "stableKey takes an object of named parts."],
  ["an empty text", { order: "" }, "order is empty."],
  ["undefined", { order: undefined }, "order is undefined."],
  ["null", { order: null }, "order is null."],
  ["NaN", { n: Number.NaN }, "n is not a finite number."],
  ["an infinity", { n: Number.POSITIVE_INFINITY }, "n is not a finite number."],
  ["a fraction", { n: 0.1 }, "n has a fraction: give it in minor units, or as text."],
  [
    "a number that collapsed",
    { n: 9007199254740992 },
    "n is beyond 2^53, where numbers collapse: give it as bigint or text.",
  ],
  ["an invalid Date", { at: new Date("no") }, "at is an invalid Date."],
  [
    "a time without a zone",
    { at: "2026-01-31T10:00:00" },
    "at is a time without a zone, which is another instant elsewhere.",
  ],
  ["a function", { f: () => 1 }, "f is a function."],
  ["a symbol", { s: Symbol("s") }, "s is a symbol."],
  ["an instance", { o: new Order() }, "o is not plain data."],
  ["a map", { o: new Map([["a", 1]]) }, "o is not plain data."],
  ["an empty list", { o: [] }, "o is empty."],
  ["an empty object", { o: {} }, "o has no parts."],
  ["a hole in a list", { o: Array.from<undefined>({ length: 1 }) }, "o[0] is undefined."],
  ["undefined further down", { o: { p: [1, undefined] } }, "o.p[1] is undefined."],
  ["half a character", { o: "\ud800" }, "o has half a character."],
  [
    "a cycle",
    { o: cycle },
    "o.self.self.self.self.self.self.self.self is nested deeper than 8 levels.",
  ],
  [
    "a name of another form",
    { "order id": 1 },
    "A name of a part is not 1 to 64 of A-Z a-z 0-9 _ . - with a letter or _ first.",
  ],
  ["too much", { o: "x".repeat(65_536) }, "The parts are longer than 65536 characters."],
])("%s is refused", (_name, parts, detail) => {
  expect(() => stableKey(parts as Vector["parts"])).toThrow(
    expect.objectContaining({ code: "key_part_invalid", message: detail }),
  );
});

test.each([
  [17, "small_integer"],
  ["17", "small_integer"],
  [1_753_000_000_000n, "unix_time"],
  ["2026-01-31T10:00:00Z", "iso_time"],
  ["018f2f2e-7b1a-7cc3-98c4-dc0c0c07398f", undefined],
])("an event id %p is %p", (id, weak) => {
  expect(weakEventId(id)).toBe(weak);
});
