import fc from "fast-check";

import { patienceOf, preferredWait } from "../../src/http/prefer.js";

describe("the wait preference of RFC 7240", () => {
  test.each<[string[], number | undefined]>([
    [[], undefined],
    [[""], undefined],
    [["wait=10"], 10],
    [["Wait=10"], 10],
    [["wait = 10"], 10],
    [["wait=0"], 0],
    [["wait=007"], 7],
    [['wait="10"'], 10],
    [['wait="1\\0"'], 10],
    [["respond-async, wait=10"], 10],
    [["respond-async;a=b , wait=10; x"], 10],
    [["return=minimal", "wait=5"], 5],
    [['foo="a, wait=1", wait=2'], 2],
    [['foo="a\\", wait=1", wait=2'], 2],
    [["wait=1, wait=2"], 1],
    [["wait, wait=2"], undefined],
    [["wait=ten, wait=2"], undefined],
    [["wait=-1"], undefined],
    [["wait=1.5"], undefined],
    [["wait=+1"], undefined],
    [["wait="], undefined],
    [['wait=""'], undefined],
    [["waiting=3"], undefined],
    [["x-wait=3"], undefined],
    [[",,wait=3,"], 3],
    [['foo="never closed, wait=3'], undefined],
    [["wait 3, wait=4"], 4],
  ])("%j", (lines, seconds) => {
    expect(preferredWait(lines)).toBe(seconds);
  });

  const token = fc.stringMatching(/^[!#$%&'*+.^_`|~\w-]{1,12}$/);
  const quoted = fc
    .string({ unit: "grapheme-ascii", maxLength: 12 })
    .map((text) => `"${text.replaceAll(/["\\]/g, (mark) => `\\${mark}`)}"`);
  const word = fc.oneof(token, quoted);
  const space = fc.constantFrom("", " ", "\t", "  ");
  const valued = fc
    .tuple(token, space, space, word)
    .map(([name, a, b, text]) => `${name}${a}=${b}${text}`);
  const other = fc
    .tuple(fc.oneof(token, valued), fc.array(fc.oneof(token, valued), { maxLength: 2 }))
    .filter(([first]) => !/^wait(?![^ \t=])/i.test(first))
    .map(([first, parameters]) => [first, ...parameters].join("; "));
  const others = fc.array(other, { maxLength: 4 });

  test("is found among any other preferences, in any spelling, and never where it is not", () => {
    const spelt = fc
      .tuple(fc.constantFrom("wait", "WAIT", "Wait"), space, space, fc.nat(), fc.boolean())
      .map(([name, a, b, value, isQuoted]) => ({
        text: `${name}${a}=${b}${isQuoted ? `"${value}"` : value}`,
        value,
      }));
    fc.assert(
      fc.property(others, spelt, others, fc.boolean(), (before, wait, after, isOneLine) => {
        expect(preferredWait([...before, ...after])).toBeUndefined();
        const lines = [...before, wait.text, ...after];
        expect(preferredWait(isOneLine ? [lines.join(",")] : lines)).toBe(wait.value);
      }),
    );
  });

  test("is read from any text, without catastrophes", () => {
    fc.assert(
      fc.property(fc.array(fc.string({ maxLength: 40 })), (lines) => {
        const seconds = preferredWait(lines);
        expect(seconds === undefined || seconds >= 0).toBe(true);
      }),
    );
    const long = [`${"wait\t".repeat(10_000)}"`, '"\\'.repeat(20_000), ",".repeat(50_000)];
    for (const line of long) expect(preferredWait([line])).toBeUndefined();
  });
});

describe("how long a request waits", () => {
  test.each([
    ["reject", 30_000, [], 0, undefined],
    [{ waitMs: 4_000 }, 30_000, [], 4_000, undefined],
    ["reject", 30_000, ["wait=5"], 5_000, 5],
    [{ waitMs: 4_000 }, 30_000, ["wait=5"], 5_000, 5],
    [{ waitMs: 4_000 }, 30_000, ["wait=1"], 1_000, 1],
    [{ waitMs: 4_000 }, 30_000, ["wait=0"], 0, 0],
    ["reject", 30_000, ["wait=99999999999999999999999"], 30_000, 30],
    [{ waitMs: 60_000 }, 30_000, ["wait=45"], 45_000, 45],
    [{ waitMs: 60_000 }, 30_000, ["wait=90"], 60_000, 60],
    [{ waitMs: 4_000 }, 0, ["wait=5"], 4_000, undefined],
    ["reject", 0, ["wait=5"], 0, undefined],
    ["reject", 1_500, ["wait=5"], 1_500, 2],
  ] as const)(
    "concurrent %j, preferWaitMs %d, %j",
    (concurrent, preferWaitMs, lines, waitMs, appliedSeconds) => {
      expect(patienceOf({ concurrent, preferWaitMs }, lines)).toEqual({ waitMs, appliedSeconds });
    },
  );
});
