/** Values that a column would cut, round or lose are refused, and what fits goes through as it is. */
import { textRows, type BadRow } from "../../src/pipeline.js";
import { counts, useSinks, type Row } from "./sink-bench.js";

const { database, open, createTable } = useSinks();
const plain = { key: "id", columns: ["id", "v"], onDuplicate: "overwrite" } as const;

test.each([
  ["char(3)", "EURO"],
  ["char(3)[]", "{EURO}"],
  ["bit(3)", "10111"],
  ["timestamptz(0)", "2026-01-01T00:00:00.6Z"],
  ["timestamptz(3)", "1969-12-31T23:59:59.9999Z"],
  ["timestamptz(3)[]", ["2026-01-01T00:00:00.0001Z"]],
  ["numeric(5,-2)", 1_234],
  ["numeric(5,-2)", "100.5"],
  ["numeric(5,-2)", 5],
  ["jsonb", { a: Number.NaN }],
  ["jsonb", [null, { a: Number.NEGATIVE_INFINITY }]],
  ["jsonb", { at: new Date(Number.NaN) }],
  ["json", Number.POSITIVE_INFINITY],
  ["real", 1e-50],
  ["real", 1e39],
] as const)("%s refuses %p and does not change it", async (type, v) => {
  const table = await createTable(`id int PRIMARY KEY, v ${type}`);
  const bad: BadRow<Row>[] = [];
  const sink = open({ ...plain, table, onBadRow: (row) => void bad.push(row) });
  const rows = [{ id: 1, v: null }];
  expect(await sink.writeBatch([...rows, { id: 2, v }])).toEqual(counts(1, 0, 0, 0));
  expect(bad.map(({ rowNumber }) => rowNumber)).toEqual([2]);
});

test.each([
  ["char(3)", "EUR", "EUR"],
  ["char(3)[]", "{EUR,A}", '{EUR,"A  "}'],
  ["numeric(5,-2)", 1_200, "1200"],
  ["numeric(5,-2)", "0", "0"],
  ["numeric(3,5)", "0.00123", "0.00123"],
  ["jsonb", { a: null, b: "null", c: [1, null] }, '{"a": null, "b": "null", "c": [1, null]}'],
  ["timestamptz(3)", "2026-01-01T00:00:00.123Z", "2026-01-01 00:00:00.123+00"],
  ["timestamptz(3)", "1969-12-31T23:59:59.999Z", "1969-12-31 23:59:59.999+00"],
  ["timestamptz(0)", "0900-12-28T00:00:00Z", "0900-12-28 00:00:00+00"],
  ["bit(3)", "101", "101"],
  ["real", 1e-45, "1e-45"],
] as const)("%s still takes %p", async (type, v, stored) => {
  const table = await createTable(`id int PRIMARY KEY, v ${type}`);
  const sink = open({ ...plain, table });
  expect(await sink.writeBatch([{ id: 2, v }])).toEqual(counts(1, 0, 0, 0));
  expect(await sink.writeBatch([{ id: 2, v }])).toEqual(counts(0, 0, 1, 0));
  const { rows } = await database.pool.query(`SELECT v::text FROM ${table}`);
  expect(rows).toEqual([{ v: stored }]);
});

test.each(["char(3)", "varchar(3)", "code"])(
  "a domain over %s refuses what is too long, new or old",
  async (base) => {
    await database.pool.query(`CREATE DOMAIN code AS varchar(3); CREATE DOMAIN tried AS ${base}`);
    const table = await createTable("id int PRIMARY KEY, v tried");
    const bad: BadRow<Row>[] = [];
    const sink = open({ ...plain, table, onBadRow: (row) => void bad.push(row) });
    const rows = [
      { id: 1, v: "EUR" },
      { id: 2, v: "EURO" },
    ];
    expect(await sink.writeBatch(rows)).toEqual(counts(1, 0, 0, 0));
    expect(await sink.writeBatch([{ id: 1, v: "EURO" }])).toEqual(counts(0, 0, 0, 0));
    expect(bad.map(({ row }) => row["v"])).toEqual(["EURO", "EURO"]);
    await database.pool.query("DROP DOMAIN tried CASCADE; DROP DOMAIN code");
  },
);

test("a unique index of a collation that takes different texts for equal will not do", async () => {
  await database.pool.query(
    "CREATE COLLATION ci (provider = icu, locale = 'und-u-ks-level2', deterministic = false)",
  );
  const table = await createTable("id text NOT NULL, v int");
  await database.pool.query(`CREATE UNIQUE INDEX odd ON ${table} (id COLLATE ci)`);
  const written = open({ ...plain, table }).writeBatch([{ id: "a", v: 1 }]);
  await expect(written).rejects.toThrow(
    "the index odd has a collation that takes different texts for equal",
  );
});

test("every NaN is one key", async () => {
  const table = await createTable("id float8 PRIMARY KEY, v int");
  const [odd] = new Float64Array(new BigUint64Array([0xfff8000000000000n]).buffer);
  const rows = [Number.NaN, odd].map((id, v) => ({ id, v }));
  expect(await open({ ...plain, table }).writeBatch(rows)).toEqual(counts(1, 0, 0, 1));
});

test("a text that is too small for a double is not 0", async () => {
  const table = await createTable("id int PRIMARY KEY, v float8");
  const texts = await textRows({ ...plain, pool: database.pool, table });
  const read = texts.reader("v");
  expect(read?.("1e-400")).toEqual({ problem: "is out of the range of float8" });
  expect(["0e-400", "-0.00", "1e-300"].map((text) => read?.(text))).toEqual([
    { value: 0 },
    { value: -0 },
    { value: 1e-300 },
  ]);
});
