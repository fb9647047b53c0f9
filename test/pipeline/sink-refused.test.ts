/** Rows that the server refuses: exactly those are told, and no good row goes with them. */
import pg from "pg";

import type { BadRow, UpsertSinkOptions } from "../../src/pipeline.js";
import { migrate } from "../../src/stores/postgres.js";
import { createDatabase } from "../support/databases.js";
import { startPostgres } from "../support/postgres-server.js";
import { startTcpProxy } from "../support/tcp-proxy.js";
import { counts, useSinks, type Row } from "./sink-bench.js";

const { database, open, createTable, rowsOf } = useSinks();

/** A sink of the table, and the numbers of the rows it refuses. */
function openFor(
  table: string,
  columns: readonly string[],
  more: Partial<Omit<UpsertSinkOptions<Row>, "version">> & { readonly version?: string } = {},
) {
  const bad: BadRow<Row>[] = [];
  const onBadRow = (row: BadRow<Row>): void => void bad.push(row);
  const sink = open({ table, key: "id", columns, onDuplicate: "overwrite", onBadRow, ...more });
  return { sink, bad, numbers: () => bad.map(({ rowNumber }) => rowNumber) };
}

describe("a refused row takes no good one of its key with it", () => {
  const columns = "id int PRIMARY KEY, v int CHECK (v > 0), n int";
  const names = ["id", "v", "n"];

  test.each([
    ["overwrite", {}, [5, 6, -1, -2], 6],
    ["ignore", { onDuplicate: "ignore" }, [-1, -2, 5, 6], 5],
    ["a version", { version: "n" }, [5, 6, -1, -2], 6],
    ["a version, backwards", { version: "n" }, [-1, 5, -2, 6], 6],
  ] as const)("%s", async (_name, how, values, left) => {
    const table = await createTable(columns);
    const { sink, bad } = openFor(table, names, how);
    const found = await sink.writeBatch(values.map((v, n) => ({ id: 1, v, n })));
    expect(await rowsOf(table)).toMatchObject([{ id: 1, v: left }]);
    expect(found.inserted).toBe(1);
    expect(found.duplicatesInBatch + bad.length).toBe(3);
    expect(bad.every(({ row }) => Number(row["v"]) < 0)).toBe(true);
  });

  test("a refused version gives way to those that tie behind it", async () => {
    const table = await createTable(columns);
    const { sink, numbers } = openFor(table, names, { version: "n" });
    const rows = [
      { id: 1, v: 5, n: 1 },
      { id: 1, v: -1, n: 2 },
      { id: 1, v: 7, n: 1 },
      { id: 1, v: 6, n: 1 },
      { id: 1, v: 9, n: 0 },
    ];
    expect(await sink.writeBatch(rows)).toEqual(counts(1, 0, 0, 3));
    expect(await rowsOf(table)).toEqual([{ id: 1, v: 7, n: 1 }]);
    expect(numbers()).toEqual([2]);
  });

  test("versions that only the server compares", async () => {
    const table = await createTable("id int PRIMARY KEY, v int CHECK (v > 0), n text");
    const { sink, numbers } = openFor(table, names, { version: "n" });
    const rows = [5, 6, -1].map((v, n) => ({ id: 1, v, n: `${n}` }));
    expect(await sink.writeBatch(rows)).toEqual(counts(1, 0, 0, 1));
    expect(await rowsOf(table)).toEqual([{ id: 1, v: 6, n: "1" }]);
    expect(numbers()).toEqual([3]);
  });

  test("hundreds of a key are told by one search, and equal rows are one", async () => {
    const table = await createTable(columns);
    const began = jest.fn();
    const { sink, bad } = openFor(table, names, { version: "n", inTransaction: began });
    const rows = Array.from({ length: 120 }, (_, n) => ({ id: 1, v: -1, n }));
    const other = { id: 2, v: 1, n: 1 };
    expect(await sink.writeBatch([...rows, other, other])).toEqual(counts(1, 0, 0, 1));
    expect(bad).toHaveLength(120);
    // The batch, the search, and the batch without them.
    expect(began).toHaveBeenCalledTimes(3);
  });
});

test("rows that inTransaction makes room for are not refused with a bad one", async () => {
  const parents = await createTable("m text PRIMARY KEY");
  const table = await createTable(
    `id int PRIMARY KEY, m text REFERENCES ${parents}, v int CHECK (v > 0)`,
  );
  const { sink, numbers } = openFor(table, ["id", "m", "v"], {
    inTransaction: async ({ query, staged }) => {
      await query(`INSERT INTO ${parents} SELECT DISTINCT m FROM ${staged} ON CONFLICT DO NOTHING`);
    },
  });
  const rows = ["a", "b", "c"].map((m, index) => ({ id: index, m, v: m === "c" ? -1 : 1 }));
  expect(await sink.writeBatch(rows)).toEqual(counts(2, 0, 0, 0));
  expect(numbers()).toEqual([3]);
  expect(await rowsOf(parents)).toEqual([{ m: "a" }, { m: "b" }]);
});

test("what inTransaction leaves for the end of the transaction hides no bad row", async () => {
  const table = await createTable("id int PRIMARY KEY, v int CHECK (v > 0)");
  const marks = await createTable(
    `id int REFERENCES ${table} DEFERRABLE INITIALLY DEFERRED, n serial`,
  );
  const { sink, numbers } = openFor(table, ["id", "v"], {
    inTransaction: async ({ query, staged }) => {
      await query(`INSERT INTO ${marks} (id) SELECT id FROM ${staged}`);
    },
  });
  const rows = [1, 2, 3].map((id) => ({ id, v: id === 2 ? -1 : 1 }));
  expect(await sink.writeBatch(rows)).toEqual(counts(2, 0, 0, 0));
  expect(numbers()).toEqual([2]);
  expect(await rowsOf(marks)).toHaveLength(2);
});

test("a row that refers to a later one of its batch is not refused with a bad one", async () => {
  const table = await createTable("id int PRIMARY KEY, parent int, v int CHECK (v > 0)");
  await database.pool.query(`ALTER TABLE ${table} ADD FOREIGN KEY (parent) REFERENCES ${table}`);
  const { sink, numbers } = openFor(table, ["id", "parent", "v"]);
  const rows = [
    { id: 1, parent: 2, v: 1 },
    { id: 2, parent: 3, v: 1 },
    { id: 3, v: 1 },
    { id: 4, v: -1 },
    { id: 5, parent: 4, v: 1 },
  ];
  expect(await sink.writeBatch(rows)).toEqual(counts(3, 0, 0, 0));
  expect(numbers()).toEqual([4, 5]);
});

test.each([
  ["tsquery", "a &", "no operand in tsquery"],
  ["regtype", "no_such_secret", 'type "…" does not exist'],
  ["oid[]", "{99999999999}", 'value "…" is out of range for type oid'],
])("a value of %s that cannot be cast costs its row, and is not repeated", async (type, v, why) => {
  const table = await createTable(`id int PRIMARY KEY, v ${type}`);
  const { sink, bad } = openFor(table, ["id", "v"]);
  const rows = [{ id: 1 }, { id: 2, v }];
  expect(await sink.writeBatch(rows)).toEqual(counts(1, 0, 0, 0));
  expect(bad).toHaveLength(1);
  expect(bad[0]?.reason).toMatch(/^The server refuses it \(\w{5}\): /);
  expect(bad[0]?.reason).toContain(why);
  expect(bad[0]?.reason).not.toContain(v);
});

test("names of constraints stay in the reason", async () => {
  const table = await createTable("id int PRIMARY KEY, v int CONSTRAINT positive CHECK (v > 0)");
  const { sink, bad } = openFor(table, ["id", "v"]);
  await sink.writeBatch([{ id: 1, v: -1 }]);
  expect(bad[0]?.reason).toBe(
    `The server refuses it (23514): new row for relation "${table}" violates check constraint "positive".`,
  );
});

test("hundreds of refused rows do not fill the server's table of locks", async () => {
  const table = await createTable("id int PRIMARY KEY, v int CHECK (v > 0)");
  const { sink, bad } = openFor(table, ["id", "v"]);
  const locks = async (): Promise<number> => {
    const { rows: lines } = await database.pool.query<{ n: number }>(
      `SELECT count(*)::int AS n FROM pg_locks JOIN pg_stat_activity a USING (pid)
       WHERE a.datname = current_database() AND pid <> pg_backend_pid()`,
    );
    return lines[0]?.n ?? 0;
  };
  const rows = Array.from({ length: 200 }, (_, id) => ({ id, v: -1 }));
  const written = sink.writeBatch(rows);
  let most = 0;
  const end: { counts?: unknown } = {};
  void written.then((found) => (end.counts = found));
  while (end.counts === undefined) most = Math.max(most, await locks());
  expect(end.counts).toEqual(counts(0, 0, 0, 0));
  expect(bad).toHaveLength(200);
  // Each of them held one and more.
  expect(most).toBeLessThan(100);
});

test("a server that is restarted before refused rows are looked for is waited for", async () => {
  const server = await startPostgres();
  const own = await createDatabase({ serverUrl: server.url, prepare: (pool) => migrate({ pool }) });
  await own.pool.query("CREATE TABLE t (id int PRIMARY KEY, v int CHECK (v > 0))");
  const proxy = await startTcpProxy({ target: own.url });
  const pool = new pg.Pool({ connectionString: proxy.via(own.url) });
  pool.on("error", () => undefined);
  try {
    const { sink, numbers } = openFor("t", ["id", "v"], { pool });
    await sink.writeBatch([{ id: 0, v: 1 }]);
    const holding = proxy.holdAt("ROLLBACK");
    const rows = [1, 2].map((id) => ({ id, v: id === 2 ? -1 : 1 }));
    const written = sink.writeBatch(rows);
    const held = await holding;
    await server.stop("fast");
    const before = proxy.accepted;
    held.drop();
    // It comes back when the sink has found it away.
    const restarted = (async () => {
      while (proxy.accepted === before) await new Promise((resolve) => setImmediate(resolve));
      await server.restart();
    })();
    expect(await written).toEqual(counts(1, 0, 0, 0));
    expect(numbers()).toEqual([2]);
    await restarted;
    await sink.close();
  } finally {
    await pool.end();
    await proxy.close();
    await own.drop();
    await server.end();
  }
}, 60_000);

test("a clash in another table that has an index of the same name ends the batch", async () => {
  await database.pool.query(`CREATE TABLE clicks (id int PRIMARY KEY, v int); CREATE SCHEMA archive;
    CREATE TABLE archive.clicks (id int PRIMARY KEY, v int); INSERT INTO archive.clicks VALUES (1, 1)`);
  let calls = 0;
  const { sink } = openFor("clicks", ["id", "v"], {
    inTransaction: async ({ query, staged }) => {
      calls += 1;
      if (calls > 50) throw new Error("tried for ever");
      await query(`INSERT INTO archive.clicks SELECT id, v FROM ${staged}`);
    },
  });
  await expect(sink.writeBatch([{ id: 1, v: 1 }])).rejects.toMatchObject({ code: "23505" });
});
