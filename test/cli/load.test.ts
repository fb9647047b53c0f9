/** `oncekey load`: what is stored of a file, what is said of it, and what is refused before anything is written. */
import { readFileSync } from "node:fs";
import { gzipSync } from "node:zlib";

import { migrate } from "../../src/stores/postgres.js";
import { useDatabase } from "../support/databases.js";
import {
  checksum,
  clicks,
  clicksTable,
  csv,
  distinct,
  fileOf,
  ndjson,
  oncekeyHere,
  type Click,
} from "./load-place.js";
import { oncekey, type Outcome } from "./oncekey.js";

const database = useDatabase({
  prepare: async (pool) => {
    await migrate({ pool });
    await pool.query(clicksTable);
    await pool.query(`CREATE TABLE kinds (id text, part integer, f float8, b boolean, j jsonb, x bytea, l text[], d date,
      t timestamptz, n numeric(10,2), note text, addr inet, PRIMARY KEY (id, part))`);
  },
});
beforeEach(async () => {
  await database.pool.query("TRUNCATE clicks, kinds, idempotency_batches");
});

const argsOf = (file: string, args: readonly string[]): string[] =>
  ["load", file, "--table", "clicks", "--key", "event_id"].concat(args);
const load = (file: string, args: readonly string[] = []): Promise<Outcome> =>
  oncekeyHere(argsOf(file, args), { DATABASE_URL: database.url });
const loadInput = (input: string, args: readonly string[]): Promise<Outcome> =>
  oncekey(argsOf("-", args), { DATABASE_URL: database.url }, { input });
const loadKinds = (file: string, args: readonly string[] = []): Promise<Outcome> =>
  oncekeyHere(["load", file, "--table", "public.kinds", "--key", "id,part", ...args], {
    DATABASE_URL: database.url,
  });
const counted = ({ stdout, stderr }: Outcome): Record<string, unknown> => {
  if (stdout === "") throw new Error(stderr);
  return JSON.parse(stdout) as Record<string, unknown>;
};
const query = async (text: string): Promise<unknown[]> => (await database.pool.query(text)).rows;
const letters = (file: string): unknown[] =>
  readFileSync(file, "utf8")
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line) as unknown);

describe("what is loaded", () => {
  test.each([
    ["a.ndjson", (text: string) => Buffer.from(text), ndjson],
    ["a.csv", (text: string) => Buffer.from(text), csv],
    ["a.ndjson.gz", (text: string) => gzipSync(text), ndjson],
    ["a.csv.gz", (text: string) => gzipSync(text), csv],
  ])("%s, twice: the second time changes nothing", async (name, pack, format) => {
    const file = fileOf(name, pack(format(clicks(1_000))));
    const args = ["--batch-rows", "300", "--json"];
    const first = counted(await load(file, args));
    expect(first).toMatchObject({
      table: "public.clicks",
      records: 1_000,
      inserted: distinct(1_000),
      updated: 0,
      unchanged: 0,
      duplicatesInBatch: 100,
      bad: 0,
      earlier: 0,
    });
    const before = await checksum(database.pool);
    expect(before).toMatch(/^900 /);
    expect(counted(await load(file, args))).toMatchObject({
      inserted: 0,
      updated: 0,
      unchanged: 900,
      duplicatesInBatch: 100,
    });
    expect(await checksum(database.pool)).toBe(before);
    // A load that came to its end leaves nothing behind.
    expect(await query("SELECT batch_id FROM idempotency_batches")).toEqual([]);
  });

  test("standard input, in words", async () => {
    const { code, stdout } = await loadInput(ndjson(clicks(20)), ["--format", "ndjson"]);
    expect(code).toBe(0);
    expect(stdout).toMatch(/^Loaded 20 records of - into public\.clicks in .+\.$/m);
    expect(stdout).toMatch(/^inserted +18$/m);
    expect(stdout).toMatch(/^duplicates in a batch +2$/m);
  });

  test("with a version column the newest stays, in whatever order the files come", async () => {
    const old = fileOf("old.csv", csv(clicks(100, 1)));
    const young = fileOf("young.csv", csv(clicks(100, 2).map((c) => ({ ...c, merchant: "new" }))));
    const args = ["--version-column", "version", "--batch-rows", "30", "--writers", "3"];
    for (const file of [young, old, young, old]) expect((await load(file, args)).code).toBe(0);
    expect(await query("SELECT DISTINCT merchant, version FROM clicks")).toEqual([
      { merchant: "new", version: "2" },
    ]);
  });

  test("without one the last of the file stays, or the first", async () => {
    const rows = [1, 2, 3].map((amount) => ({ event_id: "e", amount }));
    const file = fileOf("a.ndjson", ndjson(rows));
    await load(file, ["--batch-rows", "1"]);
    expect(await query("SELECT amount FROM clicks")).toEqual([{ amount: "3" }]);
    await database.pool.query("TRUNCATE clicks");
    await load(file, ["--batch-rows", "1", "--on-duplicate", "ignore"]);
    expect(await query("SELECT amount FROM clicks")).toEqual([{ amount: "1" }]);
  });

  test("columns that are named, and a note of those that the table has not", async () => {
    const file = fileOf("a.csv", "event_id,extra,amount\na,1,2\n");
    const { code, stderr } = await load(file);
    expect([code, stderr]).toEqual([
      0,
      "Not loaded, since public.clicks has no such columns: extra.\n",
    ]);
    const only = fileOf("b.csv", "event_id,merchant,amount\na,shop,9\n");
    await load(only, ["--columns", "event_id,merchant"]);
    expect(await query("SELECT event_id, merchant, amount FROM clicks")).toEqual([
      { event_id: "a", merchant: "shop", amount: "2" },
    ]);
  });

  test("a file packed by Zstandard", async () => {
    const content = Buffer.from(ndjson(clicks(3)));
    // A frame with its size, and one block that is as it is (RFC 8878).
    const header = Buffer.from([0x28, 0xb5, 0x2f, 0xfd, 0x20, content.length, 0, 0, 0]);
    header.writeUIntLE((content.length << 3) | 1, 6, 3);
    const file = fileOf("a.ndjson.zst", Buffer.concat([header, content]));
    expect(counted(await load(file, ["--json"]))).toMatchObject({ records: 3, inserted: 3 });
  });

  test("lists, objects and bytes of JSON", async () => {
    const row = { id: "a", part: 1, j: { b: [1] }, x: "\\x00ff", l: ["p"], b: true, f: 0.5 };
    expect((await loadKinds(fileOf("a.ndjson", ndjson([row])))).stderr).toBe("");
    expect(await query("SELECT id, j, encode(x, 'hex') AS x, l, b, f FROM kinds")).toEqual([
      { id: "a", j: { b: [1] }, x: "00ff", l: ["p"], b: true, f: 0.5 },
    ]);
  });

  test("nothing of an empty file, and of one with nothing but a header", async () => {
    for (const file of [fileOf("a.ndjson", ""), fileOf("a.csv", "event_id,amount\n")])
      expect(counted(await load(file, ["--json"]))).toMatchObject({ records: 0, inserted: 0 });
  });
});

describe("CSV", () => {
  test("quotation, line ends inside fields, a byte order mark, NULL and every kind of type", async () => {
    const file = fileOf(
      "a.csv",
      "\ufeffid,part,f,b,j,x,l,d,t,n,note,addr\r\n" +
        'a,1,1.5e3,true,"{""n"":12345678901234567890}",\\x00ff,"[""p"",null]",2026-02-28,2026-02-28T10:00:00+01:00,10.25,"two\r\nlines, ""quoted""",10.0.0.1\r\n' +
        "\r\n" +
        'b,2,,f,,,,,,,"",\r\n' +
        "c,3,NaN,0,null,,[],,,1,é,\r\n",
    );
    const { code, stderr } = await loadKinds(file);
    expect([code, stderr]).toEqual([0, ""]);
    const rows = await query(
      `SELECT id, part, f::text, b, j::text, encode(x, 'hex') AS x, l, d::text, (t AT TIME ZONE 'UTC')::text AS t, n::text, note, addr::text
       FROM kinds ORDER BY id`,
    );
    const none = { x: null, l: null, d: null, t: null, addr: null };
    expect(rows).toEqual([
      {
        id: "a",
        part: 1,
        f: "1500",
        b: true,
        j: '{"n": 12345678901234567890}',
        x: "00ff",
        l: ["p", null],
        d: "2026-02-28",
        t: "2026-02-28 09:00:00",
        n: "10.25",
        note: 'two\r\nlines, "quoted"',
        addr: "10.0.0.1/32",
      },
      { ...none, id: "b", part: 2, f: null, b: false, j: null, n: null, note: "" },
      { ...none, id: "c", part: 3, f: "NaN", b: false, j: "null", l: [], n: "1.00", note: "é" },
    ]);
  });

  test("tabs, no header, and another text for NULL", async () => {
    const file = fileOf("a.tsv", 'e1\t\\N\t5\ne2\t"\\N"\t\\N\n');
    const columns = ["--no-header", "--columns", "event_id,merchant,amount", "--null", "\\N"];
    expect((await load(file, columns)).code).toBe(0);
    expect(await query("SELECT event_id, merchant, amount FROM clicks ORDER BY 1")).toEqual([
      { event_id: "e1", merchant: null, amount: "5" },
      { event_id: "e2", merchant: "\\N", amount: null },
    ]);
  });

  test("bad records are set aside with their lines, and cost no others", async () => {
    const long = "x".repeat(300);
    const file = fileOf(
      "a.csv",
      Buffer.concat([
        Buffer.from('id,part,f,b,note\na,1,1,t,"one\ntwo"\nb,x,1,t,\nc,3,1,perhaps,\nd,4,1\n'),
        Buffer.from('e,5,1,t,"broken"quote\nf,6,1,t,fine\ng,7,1,t,"never closed\nh,8,1,t,fine\n'),
        Buffer.from(`i,9,1,t,${long}\nj,10,1,t,fine\n,11,1,t,no id\nk,12,1,t,`),
        Buffer.from([0xff, 0xfe]),
        Buffer.from("\nl,13,1,t,last"),
      ]),
    );
    const bad = fileOf("bad.ndjson", "");
    const args = ["--bad-rows", bad, "--max-record-bytes", "200", "--json"];
    const outcome = await loadKinds(file, args);
    expect(counted(outcome)).toMatchObject({ records: 13, inserted: 5, bad: 8 });
    expect(await query("SELECT id FROM kinds ORDER BY part")).toEqual(
      ["a", "f", "h", "j", "l"].map((id) => ({ id })),
    );
    expect(
      letters(bad).sort((a, b) => (a as { line: number }).line - (b as { line: number }).line),
    ).toEqual(
      [
        [4, "part", "part is not an integer, as int4 takes.", "b,x,1,t,"],
        [5, "b", "b is not a boolean (true or false).", "c,3,1,perhaps,"],
        [6, null, "The record has 3 fields where there should be 5.", "d,4,1"],
        [7, null, "The record has text behind a closing quotation mark.", 'e,5,1,t,"broken"quote'],
        [
          9,
          null,
          "The record is longer than 200 bytes, or has a quotation mark that is not closed.",
          'g,7,1,t,"never closed',
        ],
        [
          11,
          null,
          "The record is longer than 200 bytes, or has a quotation mark that is not closed.",
          `i,9,1,t,${long}`,
        ],
        [13, "id", "id is missing, and it is part of the key.", ",11,1,t,no id"],
        [14, null, "The record is not valid UTF-8.", "k,12,1,t,\ufffd\ufffd"],
      ].map(([line, column, reason, original]) => ({ file, line, column, reason, original })),
    );
  });
});

describe("records of JSON that cannot be stored", () => {
  const good = (id: string): string => `{"event_id":"${id}","merchant":"m","amount":1}`;
  const file = (): string =>
    fileOf(
      "a.ndjson",
      Buffer.concat([
        Buffer.from(`${good("a")}\n{"event_id":\n{"event_id":"b","amount":12345678901234567890}\n`),
        Buffer.from(`[1]\n\n{"merchant":"x"}\n{"event_id":"c","amount":"many"}\n`),
        Buffer.from(
          `{"event_id":"nul\\u0000"}\n{"event_id":"${"y".repeat(5_000)}"}\n{"event_id":"`,
        ),
        Buffer.from([0xc3, 0x28]),
        Buffer.from(`"}\n${good("d")}`),
      ]),
    );
  const reasons = [
    [2, null, "The line is not valid JSON."],
    [3, "amount", "amount is a number that cannot be held exactly; send it as a text."],
    [4, null, "The line is not a JSON object."],
    [6, "event_id", "event_id is missing, and it is part of the key."],
    [7, "amount", "amount is not an integer, as int8 takes."],
    [8, "event_id", "event_id has a NUL character, which Postgres cannot store."],
    [9, null, "The line is longer than 4000 bytes."],
    [10, null, "The line is not valid UTF-8."],
  ];

  test("are set aside once, however often the file is loaded", async () => {
    const path = file();
    const bad = fileOf("bad.ndjson", '{"of":"somebody else"}');
    const args = ["--bad-rows", bad, "--max-record-bytes", "4000", "--json"];
    for (const inserted of [2, 0]) {
      const outcome = await load(path, args);
      expect(outcome.code).toBe(0);
      expect(counted(outcome)).toMatchObject({ records: 10, inserted, bad: 8 });
    }
    const [first, ...others] = letters(bad) as Record<string, unknown>[];
    expect(first).toEqual({ of: "somebody else" });
    const found = others.map(({ line, column, reason }) => [line, column, reason]);
    expect(found.sort(([a], [b]) => Number(a) - Number(b))).toEqual(reasons);
    expect(others.find(({ line }) => line === 7)).toEqual({
      file: path,
      line: 7,
      column: "amount",
      reason: "amount is not an integer, as int8 takes.",
      original: '{"event_id":"c","amount":"many"}',
    });
  });

  test("end the load without --bad-rows, and beyond --max-bad-rows", async () => {
    const path = file();
    const none = await load(path);
    expect(none.code).toBe(1);
    expect(none.stderr).toBe(
      "Line 2: The line is not valid JSON. Set such records aside with --bad-rows FILE.\nNothing was loaded.\n",
    );
    const bad = fileOf("bad.ndjson", "");
    const some = ["--bad-rows", bad, "--max-bad-rows", "3", "--batch-rows", "2"];
    const three = await load(path, some);
    expect(three.code).toBe(1);
    expect(three.stderr).toContain("That is one more than the 3 that are allowed.");
    expect(letters(bad)).toHaveLength(3);
    expect(await query("SELECT event_id FROM clicks")).toEqual([{ event_id: "a" }]);
  });

  test("that only the server refuses have their lines too", async () => {
    await database.pool.query("ALTER TABLE clicks ADD CONSTRAINT positive CHECK (amount >= 0)");
    try {
      const rows = clicks(500).map((row, index) => (index === 321 ? { ...row, amount: -1 } : row));
      const bad = fileOf("bad.ndjson", "");
      const outcome = await load(fileOf("a.ndjson", ndjson(rows)), ["--bad-rows", bad, "--json"]);
      expect(counted(outcome)).toMatchObject({ records: 500, inserted: 449, bad: 1 });
      expect(letters(bad)).toMatchObject([{ line: 322, original: JSON.stringify(rows[321]) }]);
    } finally {
      await database.pool.query("ALTER TABLE clicks DROP CONSTRAINT positive");
    }
  });
});

test.each([
  ["a.ndjson", ndjson, (row: object) => `${JSON.stringify(row)}\n`],
  ["a.csv", csv, ({ event_id, merchant }: Click) => `${event_id},${merchant},1,1\n`],
])(
  "%s: a record of 8 MB is set aside, its beginning kept, and nothing else lost",
  async (name, format, one) => {
    const long = one({ event_id: "long", merchant: "x".repeat(8_000_000), amount: 1, version: 1 });
    const last = one({ event_id: "last", merchant: "m", amount: 1, version: 1 });
    const bad = fileOf("bad.ndjson", "");
    const file = fileOf(name, `${format(clicks(5))}${long}${last}`);
    const outcome = await load(file, ["--bad-rows", bad, "--json"]);
    expect(counted(outcome)).toMatchObject({ records: 7, inserted: 6, bad: 1 });
    const [letter] = letters(bad) as { line: number; reason: string; original: string }[];
    expect(letter?.line).toBe(name === "a.csv" ? 7 : 6);
    expect(letter?.reason).toMatch(/ is longer than 1048576 bytes\.$/);
    expect(letter?.original).toBe(long.slice(0, 1_048_577));
    expect(await query("SELECT merchant FROM clicks WHERE event_id = 'last'")).toEqual([
      { merchant: "m" },
    ]);
  },
);

test("a dry run reads everything and writes nothing", async () => {
  const file = fileOf("a.csv", `${csv(clicks(50))}x,m,many,1\n`);
  const bad = fileOf("bad.ndjson", "");
  const refused = await load(file, ["--dry-run"]);
  expect([refused.code, refused.stderr]).toEqual([
    1,
    "Line 52: amount is not an integer, as int8 takes. Set such records aside with --bad-rows FILE.\n" +
      "0 records were read, and nothing was written.\n",
  ]);
  const { code, stdout } = await load(file, ["--dry-run", "--bad-rows", bad]);
  expect(code).toBe(0);
  expect(stdout).toMatch(/^Read 51 records of .+, and wrote nothing\.$/m);
  expect(stdout).toMatch(/^set aside +1 /m);
  expect(letters(bad)).toHaveLength(1);
  expect(await query("SELECT 1 FROM clicks UNION ALL SELECT 1 FROM idempotency_batches")).toEqual(
    [],
  );
});

describe("what is refused before anything is written", () => {
  const content = csv(clicks(3));
  test.each<[string, readonly string[], number, string]>([
    ["a.csv", ["--table", "nothing"], 2, "There is no table nothing."],
    [
      "a.csv",
      ["--columns", "event_id,colour"],
      2,
      "The file has no column colour. It has: event_id, ",
    ],
    ["a.csv", ["--key", "merchant"], 1, "no unique index is on exactly (merchant)"],
    [
      "a.csv",
      ["--key", "colour"],
      2,
      "The file does not name colour, which the key or the version needs.",
    ],
    ["a.csv", ["--version-column", "at"], 2, "The file does not name at, which"],
    [
      "a.csv",
      ["--version-column", "version", "--on-duplicate", "ignore"],
      2,
      "--on-duplicate overwrite",
    ],
    ["a.csv", ["--writers", "2"], 2, "need a --version-column"],
    ["a.csv", ["--max-bad-rows", "2"], 2, "needs --bad-rows"],
    ["a.csv", ["--on-duplicate", "append"], 2, "It must be ignore or overwrite."],
    ["a.csv", ["--no-header"], 2, "--columns must name"],
    ["a.csv", ["--delimiter", "ab"], 2, "It must be one character."],
    ["a.csv", ["--columns", "event_id,,amount"], 2, "It must be names with commas between."],
    ["a.txt", [], 2, "In which format is it?"],
    ["a.csv", ["--bad-rows", "/nowhere/bad.ndjson"], 2, "/nowhere/bad.ndjson cannot be written"],
    ["a.csv", ["--schema", "elsewhere"], 1, "oncekey migrate"],
  ])("%s with %j", async (name, args, code, words) => {
    const outcome = await load(fileOf(name, content), args);
    expect(outcome.stderr).toContain(words);
    expect([outcome.code, outcome.stdout]).toEqual([code, ""]);
    expect(await query("SELECT 1 FROM clicks")).toEqual([]);
  });

  test("a file that is not there, a folder, and the file itself for its bad rows", async () => {
    const gone = await load("/nowhere/a.csv");
    expect([gone.code, gone.stderr]).toEqual([
      2,
      expect.stringContaining("cannot be read") as string,
    ]);
    expect((await load("/tmp")).stderr).toContain("is a folder");
    const file = fileOf("a.csv", content);
    expect((await load(file, ["--bad-rows", file])).stderr).toContain("another file");
    expect(readFileSync(file, "utf8")).toBe(content);
  });

  test("a JSON array", async () => {
    const { code, stderr } = await load(fileOf("a.json", `\n[ ${JSON.stringify(clicks(1)[0])} ]`));
    expect([code, stderr]).toEqual([2, expect.stringContaining("It is a JSON array") as string]);
  });

  test("a column that the records at the beginning do not name", async () => {
    const text = `${JSON.stringify({ event_id: "a", note: "x".repeat(2_000) })}\n`;
    const file = fileOf("a.ndjson", `${text.repeat(600)}{"event_id":"b","amount":1}\n`);
    const { code, stderr } = await load(file);
    expect(code).toBe(1);
    expect(stderr).toContain("Line 601: amount is not named at the beginning of the file");
    expect((await load(file, ["--columns", "event_id,amount"])).code).toBe(0);
    expect(await query("SELECT event_id, amount FROM clicks ORDER BY 1")).toEqual([
      { event_id: "a", amount: null },
      { event_id: "b", amount: "1" },
    ]);
  });

  test("a file that is cut off in the middle of its packing", async () => {
    const file = fileOf("a.csv.gz", gzipSync(csv(clicks(5_000))).subarray(0, -20));
    const { code, stderr } = await load(file, ["--batch-rows", "100"]);
    expect(code).toBe(1);
    expect(stderr).toContain("is not valid gzip");
  });
});
