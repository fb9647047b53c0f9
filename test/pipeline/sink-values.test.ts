/** Every type as the server stores it, and every value that is refused, with its row, column and reason. */
import { jsonText } from "../../src/pipeline.js";
import type { BadRow } from "../../src/pipeline.js";
import { counts, useSinks } from "./sink-bench.js";

const { database, open, createTable, rowsOf } = useSinks();

const types: readonly (readonly [type: string, value: unknown, stored: string])[] = [
  ["smallint", -32_768, "-32768"],
  ["integer", "2147483647", "2147483647"],
  ["bigint", -1, "-1"],
  ["bigint", 9_007_199_254_740_991, "9007199254740991"],
  ["bigint", -9_007_199_254_740_991, "-9007199254740991"],
  ["bigint", 9_223_372_036_854_775_807n, "9223372036854775807"],
  ["bigint", "-9223372036854775808", "-9223372036854775808"],
  ["numeric", 0, "0"],
  ["numeric", "0.00", "0.00"],
  ["numeric", 0.1, "0.1"],
  ["numeric", "-123456789012345678901234567890.000123", "-123456789012345678901234567890.000123"],
  ["numeric", 10_000n, "10000"],
  ["numeric", "100000000", "100000000"],
  ["numeric", "1e-7", "0.0000001"],
  ["numeric", "12.5e3", "12500"],
  ["numeric", ".5", "0.5"],
  ["numeric(12,2)", "10.5", "10.50"],
  ["real", 0.5, "0.5"],
  ["double precision", -0, "0"],
  ["double precision", Number.NaN, "NaN"],
  ["boolean", true, "true"],
  ["text", "", ""],
  ["text", "Zürich 🙂", "Zürich 🙂"],
  ["text", "x".repeat(100), "x".repeat(100)],
  ["varchar(2)", "🙂🙂", "🙂🙂"],
  ["uuid", "018F2F2E-7b1a-7cc3-98c4-dc0c0c07398f", "018f2f2e-7b1a-7cc3-98c4-dc0c0c07398f"],
  ["timestamptz", new Date("2026-01-31T23:59:59.999Z"), "2026-01-31 23:59:59.999+00"],
  ["timestamptz", "2026-01-31T23:59:59.999Z", "2026-01-31 23:59:59.999+00"],
  ["timestamptz", "2024-02-29T00:00:00.000Z", "2024-02-29 00:00:00+00"],
  ["timestamptz", "1969-12-31T23:59:59.001Z", "1969-12-31 23:59:59.001+00"],
  ["timestamptz", "2026-02-01T00:59:59.123456+01:00", "2026-01-31 23:59:59.123456+00"],
  ["timestamptz", "9999-12-28T00:00:00.001Z", "9999-12-28 00:00:00.001+00"],
  ["date", "2024-02-29", "2024-02-29"],
  ["json", { a: [1, null] }, '{"a":[1,null]}'],
  ["jsonb", "a text", '"a text"'],
  ["jsonb", jsonText('{"n": 9007199254740993}'), '{"n": 9007199254740993}'],
  ["bytea", Buffer.from("0102ff", "hex"), "\\x0102ff"],
  ["text[]", ["a", null, "ü"], "{a,NULL,ü}"],
  ["bigint[]", [1, 2n], "{1,2}"],
  ["text[]", [], "{}"],
  ["inet", "10.0.0.1", "10.0.0.1/32"],
  ["interval", "1 day", "1 day"],
  ["char(3)", "ab", "ab "],
];

test.each([{ copyDirectly: true }, { copyDirectly: false }])(
  "values of every type are stored as they are: %p",
  async (way) => {
    const columns = types.map(([type], index) => `c${index} ${type}`);
    const table = await createTable(`id int PRIMARY KEY, ${columns.join(", ")}`);
    const names = types.map((_, index) => `c${index}`);
    // Some of these types travel as text, which only the staging table takes; the others are tried without them too.
    for (const [id, chosen] of [names, names.slice(0, -3)].entries()) {
      const sink = open({
        ...way,
        table,
        key: "id",
        columns: ["id", ...chosen],
        onDuplicate: "overwrite",
      });
      const row = Object.fromEntries(types.map(([, value], index) => [`c${index}`, value]));
      expect(await sink.writeBatch([{ id, ...row }])).toEqual(counts(1, 0, 0, 0));
      expect(await sink.writeBatch([{ id, ...row }])).toEqual(counts(0, 0, 1, 0));
      const texts = chosen.map((name) => (name === "c42" ? `${name}::bpchar` : `${name}::text`));
      const { rows } = await database.pool.query({
        text: `SELECT ${texts.join(", ")} FROM ${table} WHERE id = ${id}`,
        rowMode: "array",
      });
      expect(rows[0]).toEqual(types.slice(0, chosen.length).map(([, , stored]) => stored));
    }
  },
);

test.each<[string, unknown, string]>([
  ["int", 1.5, "v is not an integer, as int4 takes."],
  ["int", 2 ** 31, "v is out of the range of int4."],
  ["int", "1; DROP", "v is not an integer, as int4 takes."],
  ["bigint", 2 ** 53, "v is beyond 2^53, where numbers collapse: give it as bigint or text."],
  ["bigint", 2n ** 63n, "v is out of the range of int8."],
  ["numeric", 2 ** 60, "v is beyond 2^53, where numbers collapse: give it as bigint or text."],
  ["numeric", "1,5", "v is not a number, as numeric takes."],
  ["numeric", Number.POSITIVE_INFINITY, "v is not a finite number."],
  [
    "numeric(4,2)",
    "1.005",
    "v has more than the 2 decimals of its column, which would be rounded.",
  ],
  ["real", 1e300, "v is out of the range of float4."],
  ["boolean", "true", "v is not a boolean."],
  ["text", 5, "v is not a text."],
  ["text", "a\0b", "v has a NUL character, which Postgres cannot store."],
  ["text", `${"x".repeat(60)}\0`, "v has a NUL character, which Postgres cannot store."],
  ["text", "\ud800", "v has half a character."],
  ["varchar(2)", "abc", "v is longer than varchar(2)."],
  ["uuid", "018f2f2e-7b1a-7cc3-98c4-dc0c0c07398g", "v is not a UUID."],
  ["uuid", "018f2f2e-7b1a-7cc3-98c4-dc0c0c07398\u0161", "v is not a UUID."],
  ["uuid", "018f2f2e07b1a-7cc3-98c4-dc0c0c07398f", "v is not a UUID."],
  ["timestamptz", "2026-01-31T10:00:00", "v is not a time with a zone (RFC 3339)."],
  ["timestamptz", "2026-02-30T10:00:00.000Z", "v is not a time that exists."],
  ["timestamptz", "2026-01-31T24:00:00.000Z", "v is not a time that exists."],
  ["timestamptz", 1_753_000_000_000, "v is not a Date or a time with a zone (RFC 3339)."],
  ["timestamptz", new Date(Number.NaN), "v is not a time that exists."],
  ["date", new Date(0), "v is not a date as YYYY-MM-DD; a Date is another day elsewhere."],
  ["date", "2026-02-29", "v is not a day that exists."],
  ["jsonb", 10n, "v is not a JSON value."],
  ["bytea", "00", "v is not bytes."],
  ["text[]", ["a", 1], "v has an item that is not a text."],
  ["text NOT NULL", undefined, "v is missing, and its column is NOT NULL."],
])("%s refuses %p by itself, before the server sees it", async (type, value, reason) => {
  const table = await createTable(`id int PRIMARY KEY, v ${type}`);
  const bad: BadRow[] = [];
  const sink = open({
    table,
    key: "id",
    columns: ["id", "v"],
    onDuplicate: "ignore",
    onBadRow: (row) => void bad.push(row),
  });
  const row = { id: 7, v: value };
  expect(await sink.writeBatch([row])).toEqual(counts(0, 0, 0, 0));
  expect(bad).toEqual([{ row, rowNumber: 1, key: { id: 7 }, column: "v", reason }]);
});

test("rows that the server refuses are found, and the others are stored", async () => {
  const table = await createTable(
    "id int PRIMARY KEY, v text UNIQUE, n int CHECK (n >= 0), j jsonb, k numeric(3,0)",
  );
  const bad: BadRow[] = [];
  const sink = open({
    table,
    key: "id",
    columns: ["id", "v", "n", "j", "k"],
    onDuplicate: "ignore",
    onBadRow: (row) => void bad.push(row),
  });
  await sink.writeBatch([{ id: 0, v: "taken" }]);
  const rows = Array.from({ length: 200 }, (_, id): Record<string, unknown> => ({
    id,
    v: `v${id}`,
    n: id,
  }));
  Object.assign(rows[3] as object, { n: -1 });
  Object.assign(rows[77] as object, { v: "taken" });
  Object.assign(rows[78] as object, { v: "v79" });
  Object.assign(rows[150] as object, { j: jsonText("{no") });
  Object.assign(rows[199] as object, { k: 1000 });
  expect(await sink.writeBatch(rows)).toEqual(counts(194, 0, 1, 0));
  expect(bad.map(({ rowNumber, key, reason }) => [rowNumber, key, reason])).toEqual([
    [4, { id: 3 }, expect.stringMatching(/\(23514\): .*"t\d+_n_check"\.$/)],
    [78, { id: 77 }, expect.stringMatching(/\(23505\): .*"t\d+_v_key"\.$/)],
    [80, { id: 79 }, expect.stringMatching(/\(23505\): .*"t\d+_v_key"\.$/)],
    [151, { id: 150 }, expect.stringMatching(/\(22P02\): invalid input syntax for type json\.$/)],
    [200, { id: 199 }, expect.stringMatching(/\(22003\): numeric field overflow\.$/)],
  ]);
  expect(await rowsOf(table)).toHaveLength(195);
});

test("a constraint that speaks up at COMMIT only names its row all the same", async () => {
  const parents = await createTable("id int PRIMARY KEY");
  await database.pool.query(`INSERT INTO ${parents} VALUES (1)`);
  const table = await createTable(
    `id int PRIMARY KEY, p int REFERENCES ${parents} DEFERRABLE INITIALLY DEFERRED`,
  );
  const bad: BadRow[] = [];
  const sink = open({
    table,
    key: "id",
    columns: ["id", "p"],
    onDuplicate: "overwrite",
    onBadRow: (row) => void bad.push(row),
  });
  expect(
    await sink.writeBatch([
      { id: 1, p: 1 },
      { id: 2, p: 2 },
    ]),
  ).toEqual(counts(1, 0, 0, 0));
  expect(bad.map(({ key }) => key)).toEqual([{ id: 2 }]);
});

test("without onBadRow the batch fails with the row's number, and nothing of it is stored", async () => {
  const table = await createTable("id int PRIMARY KEY, n int CHECK (n > 0)");
  const sink = open({ table, key: "id", columns: ["id", "n"], onDuplicate: "ignore" });
  const rows = [
    { id: 1, n: 1 },
    { id: 2, n: 0 },
  ];
  await expect(sink.writeBatch(rows)).rejects.toMatchObject({
    code: "row_invalid",
    message: expect.stringMatching(
      /^Row 2 cannot be stored: The server refuses it \(23514\)/,
    ) as string,
  });
  await expect(sink.writeBatch([{ id: 1, n: 1 }, { n: 1 }])).rejects.toMatchObject({
    code: "row_invalid",
    message: "Row 2 cannot be stored: id is missing, and it is part of the key.",
  });
  expect(await rowsOf(table)).toEqual([]);
});

test("keys that are counters or times can be taken for bad ones", async () => {
  const table = await createTable("id text PRIMARY KEY");
  const bad: BadRow[] = [];
  const sink = open({
    table,
    key: "id",
    columns: ["id"],
    onDuplicate: "ignore",
    weakKeys: "reject",
    onBadRow: (row) => void bad.push(row),
  });
  expect(
    await sink.writeBatch([{ id: "17" }, { id: "2026-01-31T10:00:00Z" }, { id: "ok_1" }]),
  ).toEqual(counts(1, 0, 0, 0));
  expect(bad.map(({ reason }) => reason)).toEqual([
    "id looks like a counter, which changes from run to run.",
    "id looks like a time, which changes from run to run.",
  ]);
});

test("keys that are equal to the server are one key", async () => {
  const table = await createTable("id numeric PRIMARY KEY, v text");
  const sink = open({ table, key: "id", columns: ["id", "v"], onDuplicate: "overwrite" });
  const rows = ["1", "1.0", 1, 1n, "10e-1"].map((id) => ({ id, v: "a" }));
  expect(await sink.writeBatch(rows)).toEqual(counts(1, 0, 0, 4));
});

test.each<[string, string, Record<string, unknown>, RegExp]>([
  ["no table", "", { table: "nowhere" }, /there is no such table/],
  ["no column", "id int PRIMARY KEY", {}, /it has no column v/],
  ["no index", "id int, v text", {}, /no unique index is on exactly \(id\)/],
  ["a larger index", "id int, v text, UNIQUE (id, v)", {}, /no unique index is on exactly \(id\)/],
  ["a deferrable key", "id int PRIMARY KEY DEFERRABLE, v text", {}, /no unique index/],
  ["a json key", "id json, v text", {}, /the column id of type json cannot be part of a key/],
  ["a padded key", "id char(5) PRIMARY KEY, v text", {}, /character\(5\) cannot be part of a key/],
  [
    "generated columns",
    "id int PRIMARY KEY, v int GENERATED ALWAYS AS (id * 2) STORED",
    {},
    /the column v is generated by the table/,
  ],
  [
    "an identity",
    "id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v int",
    {},
    /GENERATED ALWAYS AS IDENTITY/,
  ],
])("%s is named before a row is taken", async (_name, columns, more, message) => {
  const table = columns === "" ? "nowhere" : await createTable(columns);
  const sink = open({ table, key: "id", columns: ["id", "v"], onDuplicate: "ignore", ...more });
  await expect(sink.writeBatch([{ id: 1, v: "a" }])).rejects.toMatchObject({
    code: "table_unsuitable",
    message: expect.stringMatching(message) as string,
  });
});

test("wrong options are told all at once", () => {
  const given = {
    table: "a.b.c",
    key: ["id", "id"],
    columns: ["v"],
    onDuplicate: "merge",
    writers: 0,
    batch: 1,
  };
  expect(() => open(given as never)).toThrow(
    expect.objectContaining({
      code: "options_invalid",
      message: expect.stringMatching(
        /table: .*onDuplicate: .*writers: .*batch: is not an option/,
      ) as string,
    }),
  );
  expect(() =>
    open({ table: "t", key: "id", columns: ["v", "v"], onDuplicate: "ignore", version: "n" }),
  ).toThrow(
    /id must be among them; columns: n must be among them; columns: one is named twice; version: only with/,
  );
  const plain = { table: "t", key: "id", columns: ["id"], onDuplicate: "ignore" } as const;
  expect(() => open({ ...plain, keepBatchesMs: 60_000 })).toThrow(
    "keepBatchesMs (60000) must be at least retryForMs (120000)",
  );
  open({ ...plain, keepBatchesMs: 60_000, retryForMs: 60_000 });
});

test("a table with a trigger that drops rows still gives exact counts", async () => {
  const table = await createTable("id int PRIMARY KEY, v text");
  await database.pool.query(`CREATE FUNCTION drop_even() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN IF new.id % 2 = 0 THEN RETURN NULL; END IF; RETURN new; END $$;
    CREATE TRIGGER t BEFORE INSERT ON ${table} FOR EACH ROW EXECUTE FUNCTION drop_even()`);
  const sink = open({ table, key: "id", columns: ["id", "v"], onDuplicate: "ignore" });
  expect(await sink.writeBatch([1, 2, 3].map((id) => ({ id })))).toEqual(counts(2, 0, 1, 0));
});
