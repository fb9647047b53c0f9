/** Bodies of records, good and bad, cut anywhere: what is good comes through, what is bad is named, and memory stays bounded. */
import { readRecords, type ReadRecordsOptions } from "../../src/pipeline/records.js";

type Read = { values: unknown[]; lines: number[]; faults: string[] };

async function* cut(body: Buffer | string, size: number): AsyncGenerator<Buffer> {
  const bytes = Buffer.from(body);
  for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size);
}

async function read(
  source: AsyncIterable<Uint8Array>,
  options: ReadRecordsOptions = {},
): Promise<Read> {
  const all: Read = { values: [], lines: [], faults: [] };
  for await (const { values, lines, faults } of readRecords(source, options)) {
    all.values.push(...values);
    all.lines.push(...lines);
    const words = faults.map(({ line, code, field }) => [line, code, field].filter(Boolean));
    all.faults.push(...words.map((parts) => parts.join(" ")));
  }
  return all;
}

const lines = [
  '{"a":1}',
  "",
  '{"a":"\u00e9\u20ac\ud83d\ude00"}\r',
  "   ",
  '{"a":',
  "not json",
  '{"a":9007199254740993}',
  '{"a":"9007199254740993","b":[1,2]}',
  '{"b":{"c":1.00000000000000000001}}',
  '{"a":1e400}',
  '{"a":"\\u0000"}',
  "[1]",
  '{"a":2251799813685248.5}',
];

test.each([1, 1_000])(
  "how long a line is does not depend on where it stands: pieces of %d bytes",
  async (size) => {
    const short = '{"a":"xxxxxx"}';
    const long = '{"a":"\u00e9\u00e9\u00e9\u00e9"}';
    const body = [long, short, long, short, long, short, ""].join("\n");
    // 14 bytes and 16, both of fewer than 15 characters.
    expect(await read(cut(body, size), { maxRecordBytes: 14 })).toEqual({
      values: [1, 2, 3].map(() => ({ a: "xxxxxx" })),
      lines: [2, 4, 6],
      faults: ["1 line_too_long", "3 line_too_long", "5 line_too_long"],
    });
    expect((await read(cut(body, size), { maxRecordBytes: 16 })).faults).toEqual([]);
  },
);

describe("newline-delimited", () => {
  test.each([1, 2, 3, 7, 64, 10_000])("in pieces of %d bytes", async (size) => {
    expect(await read(cut(lines.join("\n"), size))).toEqual({
      values: [
        { a: 1 },
        { a: "\u00e9\u20ac\ud83d\ude00" },
        { a: "9007199254740993", b: [1, 2] },
        { a: "\0" },
        [1],
        { a: 2251799813685248.5 },
      ],
      lines: [1, 3, 8, 11, 12, 13],
      faults: [
        "5 not_json",
        "6 not_json",
        "7 number_not_exact a",
        "9 number_not_exact c",
        "10 number_not_exact a",
      ],
    });
  });

  test.each([1, 5, 1_000])("bytes that are no UTF-8, and NUL, in pieces of %d", async (size) => {
    const body = Buffer.concat([
      Buffer.from('{"a":1}\n{"a":"'),
      Buffer.from([0xff, 0xc3]),
      Buffer.from('"}\n{"a":2}\n{"a":"\0"}\n{"a":"\u00e9"}\n'),
    ]);
    expect(await read(cut(body, size))).toEqual({
      values: [{ a: 1 }, { a: 2 }, { a: "\u00e9" }],
      lines: [1, 3, 5],
      faults: ["2 invalid_utf8", "4 nul"],
    });
  });

  test("a mark of byte order and a missing last newline are no matter", async () => {
    const read1 = await read(cut('\ufeff{"a":1}\n{"a":2}', 4));
    expect(read1).toEqual({ values: [{ a: 1 }, { a: 2 }], lines: [1, 2], faults: [] });
  });

  test.each([1, 9, 50, 1_000])("a line that is too long, in pieces of %d", async (size) => {
    const body = `{"a":1}\n{"a":"${"x".repeat(40)}"}\n{"a":2}\n{"a":"${"x".repeat(40)}"}`;
    expect(await read(cut(body, size), { maxRecordBytes: 20 })).toEqual({
      values: [{ a: 1 }, { a: 2 }],
      lines: [1, 3],
      faults: ["2 line_too_long", "4 line_too_long"],
    });
  });

  test("64 MB on one line are a fault of that line and are not held", async () => {
    const piece = Buffer.alloc(64 * 1024, "x");
    let most = 0;
    async function* body(): AsyncGenerator<Buffer> {
      yield Buffer.from('{"a":1}\n"');
      for (let sent = 0; sent < 64 * 1024 * 1024; sent += piece.length) {
        // A copy, as a socket gives a new buffer each time.
        yield Buffer.from(piece);
        most = Math.max(most, process.memoryUsage().arrayBuffers);
      }
      yield Buffer.from('"\n{"a":2}\n');
    }
    global.gc?.();
    const before = process.memoryUsage().arrayBuffers;
    expect(await read(body())).toEqual({
      values: [{ a: 1 }, { a: 2 }],
      lines: [1, 3],
      faults: ["2 line_too_long"],
    });
    expect(most - before).toBeLessThan(48 * 1024 * 1024);
  });
});

describe("an array", () => {
  const array = { format: "array" } as const;

  test.each([1, 2, 3, 8, 10_000])("in pieces of %d bytes", async (size) => {
    const body = ` [ {"a":"]},{\\"\u20ac"},\n{"a":[{"b":1},[2]]} , {bad},\n17,{"a":9007199254740993}, {"z":{}} ]\n`;
    expect(await read(cut(body, size), array)).toEqual({
      values: [{ a: ']},{"\u20ac' }, { a: [{ b: 1 }, [2]] }, 17, { z: {} }],
      lines: [1, 2, 3, 3],
      faults: ["2 not_json", "3 number_not_exact a"],
    });
  });

  test.each([
    ["one record", '{"a":1}', [{ a: 1 }], []],
    ["nothing in it", "[]", [], []],
    ["nothing", "  ", [], ["1 not_json"]],
    ["another value", "17", [], ["1 not_json"]],
    ["not closed", '[{"a":1},\n', [{ a: 1 }], ["2 not_json"]],
    ["cut off", '[{"a":1},{"a":', [{ a: 1 }], ["1 not_json"]],
    ["a comma too many", '[{"a":1},]', [{ a: 1 }], ["1 not_json"]],
    ["no comma", '[{"a":1}\n{"a":2}]', [{ a: 1 }, { a: 2 }], ["2 not_json"]],
    ["text behind", '[{"a":1}] x y', [{ a: 1 }], ["1 not_json"]],
    ["a brace too many", '[{"a":1}},{"a":2}]', [{ a: 1 }, { a: 2 }], ["1 not_json", "1 not_json"]],
    ["closed by the wrong one", '[{"a":1],{"a":2}]', [{ a: 2 }], ["1 not_json"]],
    ["an open quotation mark", '[{"a":1},{"a":"x},{"b":2}]', [{ a: 1 }], ["1 not_json"]],
    [
      "too long",
      `[{"a":1},{"a":"${"y".repeat(99)}"},{"a":2}]`,
      [{ a: 1 }, { a: 2 }],
      ["1 line_too_long"],
    ],
  ])("%s", async (_name, body, values, faults) => {
    for (const size of [1, 4, 1_000]) {
      const got = await read(cut(body, size), { ...array, maxRecordBytes: 60 });
      expect({ values: got.values, faults: got.faults }).toEqual({ values, faults });
    }
  });
});
