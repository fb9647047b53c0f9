/**
 * A sink reads the types of its table once. `ALTER TABLE … ALTER COLUMN v TYPE double precision` under an open sink left it
 * copying eight bytes of a bigint into a column that took them for a float: 1250 was stored as 6.2e-321, and nobody was told. And a
 * key whose index was dropped was copied once more by every batch. Now each batch holds the table and reads its shape first.
 */
import pg from "pg";

import { counts, useSinks } from "../pipeline/sink-bench.js";
import { startTcpProxy } from "../support/tcp-proxy.js";
import { waitForLockWaits } from "../support/lock-waits.js";

const { database, open, createTable, rowsOf } = useSinks();
const plain = { key: "id", columns: ["id", "v"], onDuplicate: "overwrite" } as const;
const unsuitable = { code: "table_unsuitable" };

test.each([
  ["bigint", "numeric(12,2)", {}],
  ["bigint", "double precision", {}],
  ["integer", "real", { copyDirectly: false, pooler: "transaction" }],
  ["integer", "bigint", {}],
] as const)(
  "a column of %s that becomes %s takes no bytes of the old type",
  async (from, to, way) => {
    const table = await createTable(`id int PRIMARY KEY, v ${from}`);
    const sink = open({ ...plain, ...way, table });
    await sink.writeBatch([{ id: 0, v: 7 }]);
    await database.pool.query(`ALTER TABLE ${table} ALTER COLUMN v TYPE ${to}`);
    await expect(sink.writeBatch([{ id: 1, v: 1_250 }])).rejects.toMatchObject(unsuitable);
    expect(await rowsOf(table)).toHaveLength(1);
    // The next batch is encoded for what is there now.
    expect(await sink.writeBatch([{ id: 1, v: 1_250 }])).toEqual(counts(1, 0, 0, 0));
    const { rows } = await database.pool.query(`SELECT v::float8 AS v FROM ${table} WHERE id = 1`);
    expect(rows).toEqual([{ v: 1_250 }]);
  },
);

test("keys of another type are not looked up", async () => {
  const table = await createTable("id int PRIMARY KEY, v int");
  const sink = open({ ...plain, table });
  await sink.writeBatch([{ id: 1, v: 1 }]);
  await database.pool.query(`ALTER TABLE ${table} ALTER COLUMN id TYPE text`);
  await expect(sink.writeBatch([{ id: 2, v: 2 }])).rejects.toMatchObject(unsuitable);
  expect(await sink.writeBatch([{ id: "2", v: 2 }])).toEqual(counts(1, 0, 0, 0));
});

test("a change that is under way is waited for, and then seen", async () => {
  const table = await createTable("id int PRIMARY KEY, v bigint");
  const sink = open({ ...plain, table });
  await sink.writeBatch([{ id: 0, v: 7 }]);
  const owner = await database.pool.connect();
  try {
    await owner.query("BEGIN");
    await owner.query(`ALTER TABLE ${table} ALTER COLUMN v TYPE double precision`);
    const written = sink.writeBatch([{ id: 1, v: 1_250 }]).catch((error: unknown) => error);
    await waitForLockWaits(database.pool);
    await owner.query("COMMIT");
    expect(await written).toMatchObject(unsuitable);
  } finally {
    owner.release();
  }
  expect(await rowsOf(table)).toHaveLength(1);
});

test("a change before refused rows are looked for is seen", async () => {
  const proxy = await startTcpProxy({ target: database.url });
  const pool = new pg.Pool({ connectionString: proxy.via(database.url) });
  pool.on("error", () => undefined);
  try {
    const table = await createTable("id int PRIMARY KEY, v bigint CHECK (v > 0)");
    const bad: unknown[] = [];
    const sink = open({ ...plain, pool, table, onBadRow: (row) => void bad.push(row) });
    await sink.writeBatch([{ id: 0, v: 7 }]);
    const holding = proxy.holdAt("ROLLBACK", { reply: true });
    const written = sink.writeBatch([{ id: 1, v: -1 }]).catch((error: unknown) => error);
    const held = await holding;
    await database.pool.query(`ALTER TABLE ${table} ALTER COLUMN v TYPE double precision`);
    held.release();
    expect(await written).toMatchObject(unsuitable);
    expect(bad).toEqual([]);
  } finally {
    await pool.end();
    await proxy.close();
  }
});

test("a key whose index is gone is not copied twice", async () => {
  const table = await createTable("id int PRIMARY KEY, v int");
  const sink = open({ ...plain, table });
  await sink.writeBatch([{ id: 1, v: 1 }]);
  await database.pool.query(`ALTER TABLE ${table} DROP CONSTRAINT ${table}_pkey`);
  await expect(sink.writeBatch([{ id: 2, v: 2 }])).rejects.toMatchObject(unsuitable);
  expect(await rowsOf(table)).toHaveLength(1);
});

test("a partitioned table is held as well, and partitions come and go", async () => {
  const table = await createTable("id int PRIMARY KEY, v int");
  await database.pool.query(`DROP TABLE ${table};
    CREATE TABLE ${table} (id int PRIMARY KEY, v int) PARTITION BY RANGE (id);
    CREATE TABLE ${table}_a PARTITION OF ${table} FOR VALUES FROM (0) TO (10)`);
  const sink = open({ ...plain, table });
  expect(await sink.writeBatch([{ id: 1, v: 1 }])).toEqual(counts(1, 0, 0, 0));
  await database.pool.query(
    `CREATE TABLE ${table}_b PARTITION OF ${table} FOR VALUES FROM (10) TO (20)`,
  );
  expect(
    await sink.writeBatch([
      { id: 1, v: 2 },
      { id: 11, v: 1 },
    ]),
  ).toEqual(counts(1, 1, 0, 0));
  await database.pool.query(`ALTER TABLE ${table} ALTER COLUMN v TYPE bigint`);
  await expect(sink.writeBatch([{ id: 2, v: 1 }])).rejects.toMatchObject(unsuitable);
});

describe("privileges", () => {
  const ledger = "SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public";
  let role: string;
  let pool: pg.Pool;
  beforeAll(async () => {
    role = `${database.name}_writer`;
    await database.pool.query(`CREATE ROLE ${role}; GRANT ${ledger} TO ${role}`);
    pool = new pg.Pool({ connectionString: database.url, options: `-c role=${role}` });
  });
  afterAll(async () => {
    await pool.end();
    await database.pool.query(`DROP OWNED BY ${role}; DROP ROLE ${role}`);
  });

  test.each([
    ["INSERT and SELECT", "SELECT, INSERT ON", "ignore", counts(1, 0, 1, 0)],
    ["those and UPDATE", "SELECT, INSERT, UPDATE ON", "overwrite", counts(1, 1, 0, 0)],
    [
      "those of the columns alone",
      "SELECT (id, v), INSERT (id, v), UPDATE (v) ON",
      "overwrite",
      counts(1, 1, 0, 0),
    ],
  ] as const)("a sink needs no more than %s", async (_name, grant, onDuplicate, found) => {
    const table = await createTable("id int PRIMARY KEY, v int CHECK (v > 0), other int");
    await database.pool.query(`GRANT ${grant} ${table} TO ${role}`);
    const bad: number[] = [];
    const onBadRow = ({ rowNumber }: { rowNumber: number }): void => void bad.push(rowNumber);
    const sink = open({ ...plain, pool, table, onDuplicate, onBadRow });
    expect(await sink.writeBatch([{ id: 1, v: 1 }])).toEqual(counts(1, 0, 0, 0));
    const rows = [1, 2, 3].map((id) => ({ id, v: id === 3 ? -1 : 5 }));
    expect(await sink.writeBatch(rows)).toEqual(found);
    expect(bad).toEqual([3]);
  });
});
