/** The sink against a real server: what is stored, and whether the counts say so. */
import { counts, useSinks } from "./sink-bench.js";

const { database, open, createTable, rowsOf } = useSinks();

const plain = { key: "id", columns: ["id", "v"] } as const;

// The same ends by the way straight into the table and by the staging table.
describe.each([{ copyDirectly: true }, { copyDirectly: false }])("%p", (way) => {
  test("ignore keeps the first row of each key, and counts exactly", async () => {
    const table = await createTable("id int PRIMARY KEY, v text");
    const sink = open({ ...plain, ...way, table, onDuplicate: "ignore" });
    const first = [
      { id: 2, v: "a" },
      { id: 1, v: "b" },
      { id: 2, v: "c" },
    ];
    expect(await sink.writeBatch(first)).toEqual(counts(2, 0, 0, 1));
    expect(
      await sink.writeBatch([
        { id: 1, v: "z" },
        { id: 3, v: null },
      ]),
    ).toEqual(counts(1, 0, 1, 0));
    expect(await rowsOf(table)).toEqual([
      { id: 1, v: "b" },
      { id: 2, v: "a" },
      { id: 3, v: null },
    ]);
  });

  test("overwrite keeps the last row of each key, and leaves equal ones alone", async () => {
    const table = await createTable("id int PRIMARY KEY, v text");
    const sink = open({ ...plain, ...way, table, onDuplicate: "overwrite" });
    const rows = [
      { id: 1, v: "a" },
      { id: 2, v: "b" },
      { id: 1, v: "c" },
    ];
    expect(await sink.writeBatch(rows)).toEqual(counts(2, 0, 0, 1));
    const before = await database.pool.query(`SELECT id, xmin::text, ctid::text FROM ${table}`);
    expect(await sink.writeBatch(rows)).toEqual(counts(0, 0, 2, 1));
    const after = await database.pool.query(`SELECT id, xmin::text, ctid::text FROM ${table}`);
    expect(after.rows).toEqual(before.rows);
    expect(
      await sink.writeBatch([
        { id: 1, v: "d" },
        { id: 2, v: "b" },
        { id: 3, v: "e" },
      ]),
    ).toEqual(counts(1, 1, 1, 0));
    expect(await rowsOf(table)).toEqual([
      { id: 1, v: "d" },
      { id: 2, v: "b" },
      { id: 3, v: "e" },
    ]);
  });

  test("an older event never overwrites a newer one", async () => {
    const table = await createTable("id int PRIMARY KEY, n bigint, v text");
    const sink = open({
      ...way,
      table,
      key: "id",
      columns: ["id", "v", "n"],
      onDuplicate: "overwrite",
      version: "n",
    });
    expect(
      await sink.writeBatch([
        { id: 1, n: -5, v: "old" },
        { id: 1, n: 7, v: "new" },
        { id: 1, n: 6, v: "middle" },
      ]),
    ).toEqual(counts(1, 0, 0, 2));
    expect(await sink.writeBatch([{ id: 1, n: 6, v: "late" }])).toEqual(counts(0, 0, 1, 0));
    expect(await sink.writeBatch([{ id: 1, n: 8n, v: "next" }])).toEqual(counts(0, 1, 0, 0));
    expect(await rowsOf(table)).toEqual([{ id: 1, n: "8", v: "next" }]);
    await database.pool.query(`UPDATE ${table} SET n = NULL`);
    expect(await sink.writeBatch([{ id: 1, n: -9, v: "any" }])).toEqual(counts(0, 1, 0, 0));
  });

  test("of equal versions the same one wins in every order, within a batch and across", async () => {
    const versions = [
      { id: 1, n: "1.5", v: "b", j: { a: 1 } },
      { id: 1, n: "1.50", v: "c", j: { a: 2 } },
      { id: 1, n: "1.5", v: "a", j: { a: 3 } },
      { id: 1, n: "1.5", v: "c", j: { a: 2 } },
      { id: 2, n: "3", v: "x", j: null },
    ];
    const ends = new Set<string>();
    const table = await createTable("id int PRIMARY KEY, n numeric, v text, j json");
    const sink = open({
      ...way,
      table,
      key: "id",
      columns: ["id", "v", "n", "j"],
      onDuplicate: "overwrite",
      version: "n",
    });
    for (const order of permutations(versions).filter((_, index) => index % 5 === 0)) {
      for (const size of [1, 2, 5]) {
        await database.pool.query(`TRUNCATE ${table}`);
        let sum = 0;
        for (let at = 0; at < order.length; at += size) {
          const found = await sink.writeBatch(order.slice(at, at + size));
          sum += found.inserted + found.updated + found.unchanged + found.duplicatesInBatch;
        }
        expect(sum).toBe(order.length);
        ends.add(JSON.stringify(await rowsOf(table)));
      }
    }
    expect([...ends]).toHaveLength(1);
  });

  test("keys of several columns, in another schema, with names that need quotation", async () => {
    await database.pool.query(`CREATE SCHEMA IF NOT EXISTS "Sales"`);
    await database.pool.query(`DROP TABLE IF EXISTS "Sales"."Daily ""x"""`);
    await database.pool.query(
      `CREATE TABLE "Sales"."Daily ""x""" ("select" text, day date, amount numeric(12,2), UNIQUE (day, "select"))`,
    );
    const sink = open({
      ...way,
      table: 'Sales.Daily "x"',
      key: ["select", "day"],
      columns: ["day", "select", "amount"],
      onDuplicate: "overwrite",
    });
    const rows = [
      { select: "m", day: "2026-01-31", amount: "10.50" },
      { select: "m", day: "2026-02-01", amount: 3 },
      { select: "m2", day: "2026-01-31", amount: "10.5" },
    ];
    expect(await sink.writeBatch(rows)).toEqual(counts(3, 0, 0, 0));
    expect(await sink.writeBatch(rows.map((row) => ({ ...row, amount: 1 })))).toEqual(
      counts(0, 3, 0, 0),
    );
  });

  test("a table of keys alone", async () => {
    const table = await createTable("id text PRIMARY KEY");
    const sink = open({ ...way, table, key: "id", columns: ["id"], onDuplicate: "overwrite" });
    const rows = [{ id: "a" }, { id: "" }, { id: "a" }];
    expect(await sink.writeBatch(rows)).toEqual(counts(2, 0, 0, 1));
    expect(await sink.writeBatch(rows)).toEqual(counts(0, 0, 2, 1));
  });
});

test.each<[string, readonly unknown[]]>([
  ["int2 PRIMARY KEY", [-3, 0, 7]],
  ["int8 PRIMARY KEY", [-(2 ** 40), 0n, "9223372036854775807"]],
  ["numeric PRIMARY KEY", ["-1.5", "0.00", "12345678901234567890"]],
  ["float8 PRIMARY KEY", [-1.5, 0, Number.NaN]],
  ["text PRIMARY KEY", ["", "a", "B", "z", "\u00e4"]],
  [`text COLLATE "C" PRIMARY KEY`, ["", "a", "B", "z", "\u00e4"]],
  ["varchar(9) PRIMARY KEY", ["", "a", "B", "z", "\u00e4"]],
  ["bool PRIMARY KEY", [false, true]],
  [
    "uuid PRIMARY KEY",
    ["00000000-0000-4000-8000-000000000000", "ffffffff-ffff-4fff-bfff-ffffffffffff"],
  ],
  ["timestamptz PRIMARY KEY", ["1969-12-31T00:00:00.000Z", "2026-01-31T00:00:00.000Z"]],
  ["date PRIMARY KEY", ["1969-12-31", "2026-01-31"]],
  ["bytea PRIMARY KEY", [Buffer.alloc(0), Buffer.from("ff", "hex"), Buffer.from("00ff", "hex")]],
  // NULL is in front of the largest key here, and an index may have another order.
  ["int4 UNIQUE", [-1, 0, 1]],
])("keys of %s that are there are found without a failed copy", async (column, ids) => {
  const table = await createTable(`id ${column}, v text`);
  if (column.endsWith("UNIQUE")) await database.pool.query(`INSERT INTO ${table} VALUES (NULL)`);
  const sink = open({ ...plain, table, onDuplicate: "ignore" });
  const staging = async (): Promise<number | null> =>
    (await database.pool.query("SELECT FROM pg_class WHERE relname LIKE 'oncekey_staged_%'"))
      .rowCount;
  const before = await staging();
  const some = ids.slice(1).map((id) => ({ id, v: "a" }));
  const all = ids.map((id) => ({ id, v: "b" }));
  expect(await sink.writeBatch(some)).toEqual(counts(ids.length - 1, 0, 0, 0));
  expect(await sink.writeBatch(all)).toEqual(counts(1, 0, ids.length - 1, 0));
  expect(await sink.writeBatch(all)).toEqual(counts(0, 0, ids.length, 0));
  // With `ignore` only a copy that failed leads there.
  expect(await staging()).toBe(before);
});

function permutations<T>(items: readonly T[]): T[][] {
  if (items.length <= 1) return [[...items]];
  return items.flatMap((item, index) =>
    permutations(items.filter((_, other) => other !== index)).map((rest) => [item, ...rest]),
  );
}
