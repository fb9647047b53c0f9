/** The sink while something goes wrong: lost replies, two writers of one key, servers that go away, hooks that fail. */
import pg from "pg";

import { reapBatches } from "../../src/pipeline.js";
import { migrate } from "../../src/stores/postgres.js";
import { createDatabase } from "../support/databases.js";
import { startPostgres } from "../support/postgres-server.js";
import { startTcpProxy, type TcpProxy } from "../support/tcp-proxy.js";
import { waitForLockWaits } from "../support/lock-waits.js";
import { counts, useSinks } from "./sink-bench.js";

const { database, open, createTable, rowsOf } = useSinks();
const plain = { key: "id", columns: ["id", "v"] } as const;
const ledger = async (): Promise<number> =>
  (await database.pool.query("SELECT 1 FROM idempotency_batches")).rowCount ?? 0;

/** The statement alone: READ COMMITTED and ON COMMIT are others. */
// oxlint-disable-next-line no-control-regex -- the protocol ends texts with a zero
const commit = /\0COMMIT\0/;

describe("by way of a proxy", () => {
  let proxy: TcpProxy;
  let pool: pg.Pool;
  beforeEach(async () => {
    proxy = await startTcpProxy({ target: database.url });
    pool = new pg.Pool({ connectionString: proxy.via(database.url) });
    pool.on("error", () => undefined);
  });
  afterEach(async () => {
    await pool.end();
    await proxy.close();
  });

  test.each([{ copyDirectly: true }, { copyDirectly: false }])(
    "a lost reply to COMMIT is settled, and the counts are those of the first time: %p",
    async (way) => {
      const table = await createTable("id int PRIMARY KEY, v text");
      const sink = open({ ...plain, ...way, pool, table, onDuplicate: "overwrite" });
      await sink.writeBatch([{ id: 1, v: "a" }]);
      const before = await ledger();
      const cut = proxy.cutAt(commit);
      const written = sink.writeBatch([
        { id: 1, v: "b" },
        { id: 2, v: "c" },
        { id: 2, v: "d" },
      ]);
      await cut;
      expect(await written).toEqual(counts(1, 1, 0, 1));
      expect((await ledger()) - before).toBe(1);
    },
  );

  test("a COMMIT that never arrived is written again, once", async () => {
    const table = await createTable("id int PRIMARY KEY, v text");
    const sink = open({ ...plain, pool, table, onDuplicate: "ignore" });
    await sink.writeBatch([{ id: 1, v: "a" }]);
    const cut = proxy.cutAt(commit, { forward: false, afterReply: false });
    const written = sink.writeBatch([{ id: 2, v: "b" }]);
    await cut;
    expect(await written).toEqual(counts(1, 0, 0, 0));
    expect(await rowsOf(table)).toHaveLength(2);
  });

  test("a COMMIT that is still under way is waited for, and never guessed", async () => {
    const table = await createTable("id int PRIMARY KEY, v text");
    const slow = open({ ...plain, pool, table, onDuplicate: "ignore" });
    await slow.writeBatch([{ id: 1, v: "a" }]);
    const holding = proxy.holdAt(commit);
    const written = slow.writeBatch([{ id: 2, v: "b" }], { batchId: "in doubt" });
    const held = await holding;
    // Another process tries the same batch while the first one's transaction is open.
    const other = open({ ...plain, table, onDuplicate: "ignore" });
    const again = other.writeBatch([{ id: 2, v: "b" }], { batchId: "in doubt" });
    await waitForLockWaits(database.pool);
    held.release();
    expect(await again).toEqual(counts(1, 0, 0, 0));
    expect(await written).toEqual(counts(1, 0, 0, 0));
    expect(await rowsOf(table)).toHaveLength(2);
  });

  test("a connection that is lost at any statement costs nothing but time", async () => {
    const table = await createTable("id int PRIMARY KEY, v text");
    const sink = open({ ...plain, pool, table, onDuplicate: "overwrite" });
    await sink.writeBatch([{ id: 0, v: "a" }]);
    let id = 0;
    for (const pattern of [
      "BEGIN",
      "unnest",
      "COPY",
      "PGCOPY",
      "CREATE TEMP",
      "MATERIALIZED",
      "batch",
    ]) {
      id += 1;
      const cut = proxy.cutAt(pattern, { afterReply: id % 2 === 0 });
      const written = sink.writeBatch([
        { id: 0, v: pattern },
        { id, v: "n" },
      ]);
      await Promise.race([cut, written]);
      expect(await written).toEqual(counts(1, 1, 0, 0));
    }
    expect(await rowsOf(table)).toHaveLength(8);
  });
});

test("the same batch id writes nothing the second time, and other rows under it are refused", async () => {
  const table = await createTable("id int PRIMARY KEY, v text");
  const sink = open({ ...plain, table, onDuplicate: "overwrite" });
  const rows = [{ id: 1, v: "a" }];
  expect(await sink.writeBatch(rows, { batchId: "b" })).toEqual(counts(1, 0, 0, 0));
  await database.pool.query(`UPDATE ${table} SET v = 'changed since'`);
  expect(await sink.writeBatch(rows, { batchId: "b" })).toEqual(counts(1, 0, 0, 0));
  expect(await rowsOf(table)).toEqual([{ id: 1, v: "changed since" }]);
  await expect(sink.writeBatch([{ id: 2, v: "a" }], { batchId: "b" })).rejects.toMatchObject({
    code: "batch_reused",
  });
  await expect(sink.writeBatch([], { batchId: "" })).rejects.toThrow(TypeError);
  const other = await createTable("id int PRIMARY KEY, v text");
  const second = open({ ...plain, table: other, onDuplicate: "overwrite" });
  expect(await second.writeBatch(rows, { batchId: "b" })).toEqual(counts(1, 0, 0, 0));
});

test("many writers of the same batch id write it once, and all get its counts", async () => {
  const table = await createTable("id int PRIMARY KEY, v text");
  const rows = Array.from({ length: 500 }, (_, id) => ({ id, v: "a" }));
  const writers = Array.from({ length: 4 }, () => open({ ...plain, table, onDuplicate: "ignore" }));
  const all = await Promise.all(writers.map((sink) => sink.writeBatch(rows, { batchId: "one" })));
  expect(all).toEqual(writers.map(() => counts(500, 0, 0, 0)));
});

test.each(["ignore", "overwrite"] as const)(
  "sinks that write the same keys in all orders never wait in a circle: %s",
  async (onDuplicate) => {
    const table = await createTable("id int PRIMARY KEY, v text");
    const deadlocks = async (): Promise<unknown> =>
      (
        await database.pool.query(
          "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()",
        )
      ).rows[0];
    const before = await deadlocks();
    const sinks = [true, true, false, false].map((copyDirectly) =>
      open({ ...plain, table, onDuplicate, copyDirectly }),
    );
    let inserted = 0;
    for (let round = 0; round < 6; round += 1) {
      const found = await Promise.all(
        sinks.map((sink, index) => {
          const rows = Array.from({ length: 2_000 }, (_, n) => ({
            id: (n * (index * 2 + 1) * 7 + round * 400) % 3_000,
            v: `${index} ${round}`,
          }));
          return sink.writeBatch(rows);
        }),
      );
      for (const one of found) inserted += one.inserted;
    }
    const rows = await rowsOf(table);
    expect(inserted).toBe(rows.length);
    await database.pool.query("SELECT pg_stat_clear_snapshot()");
    expect(await deadlocks()).toEqual(before);
  },
);

test("a key that appears between the probe and the copy does not fail the batch", async () => {
  const table = await createTable("id int PRIMARY KEY, v text");
  const sink = open({ ...plain, table, onDuplicate: "ignore" });
  await sink.writeBatch([{ id: 0, v: "a" }]);
  const rival = await database.pool.connect();
  try {
    await rival.query("BEGIN");
    await rival.query(`INSERT INTO ${table} VALUES (2, 'rival')`);
    const written = sink.writeBatch([1, 2, 3].map((id) => ({ id, v: "mine" })));
    await waitForLockWaits(database.pool, 1, "COPY%");
    await rival.query("COMMIT");
    expect(await written).toEqual(counts(2, 0, 1, 0));
  } finally {
    rival.release();
  }
  expect(await rowsOf(table)).toContainEqual({ id: 2, v: "rival" });
});

describe("inTransaction", () => {
  const columns = "id int PRIMARY KEY, v text";

  test("sees the staged and the old rows, and commits or not with them", async () => {
    const table = await createTable(columns);
    const marks = await createTable("was text, becomes text");
    let fails = false;
    const ids: string[] = [];
    const sink = open({
      ...plain,
      table,
      onDuplicate: "overwrite",
      inTransaction: async ({ query, staged, table: quoted, rows, batchId }) => {
        ids.push(batchId);
        expect(rows).toHaveLength(2);
        await query(
          `INSERT INTO ${marks} SELECT t.v, s.v FROM ${staged} s LEFT JOIN ${quoted} t USING (id) WHERE $1`,
          [true],
        );
        if (fails) throw new Error("the hook's own");
      },
    });
    const rows = (v: string): { id: number; v: string }[] => [
      { id: 1, v: "dropped" },
      { id: 1, v },
      { id: 2, v },
    ];
    expect(await sink.writeBatch(rows("a"), { batchId: "first" })).toEqual(counts(2, 0, 0, 1));
    expect(await sink.writeBatch(rows("b"))).toEqual(counts(0, 2, 0, 1));
    expect(ids[0]).toBe("first");
    const marked = [
      { was: "a", becomes: "b" },
      { was: "a", becomes: "b" },
      { was: null, becomes: "a" },
      { was: null, becomes: "a" },
    ];
    expect(await rowsOf(marks)).toEqual(marked);
    fails = true;
    await expect(sink.writeBatch(rows("c"))).rejects.toThrow("the hook's own");
    expect(await rowsOf(marks)).toEqual(marked);
    expect(await rowsOf(table)).toEqual([
      { id: 1, v: "b" },
      { id: 2, v: "b" },
    ]);
  });

  test("cannot end the transaction, be used after it, or have its errors taken for bad rows", async () => {
    const table = await createTable(columns);
    let kept: ((text: string) => Promise<unknown>) | undefined;
    let text = "COMMIT";
    const bad: unknown[] = [];
    const sink = open({
      ...plain,
      table,
      onDuplicate: "ignore",
      onBadRow: (row) => void bad.push(row),
      inTransaction: async ({ query }) => {
        kept = query;
        await query(text);
      },
    });
    const write = (): Promise<unknown> => sink.writeBatch([{ id: 1, v: "a" }]);
    await expect(write()).rejects.toMatchObject({ code: "transaction_ended" });
    await expect(kept?.("SELECT 1")).rejects.toMatchObject({ code: "transaction_ended" });
    text = "SELECT 1 / 0";
    await expect(write()).rejects.toMatchObject({ code: "22012" });
    expect([await rowsOf(table), bad]).toEqual([[], []]);
  });
});

test("a server that is restarted, twice, in the middle of a stream costs nothing but time", async () => {
  const server = await startPostgres();
  const other = await createDatabase({
    serverUrl: server.url,
    prepare: (pool) => migrate({ pool }),
  });
  await other.pool.query("CREATE TABLE e (id int PRIMARY KEY, v text)");
  const sink = open({
    ...plain,
    pool: other.pool,
    table: "e",
    onDuplicate: "ignore",
    batchRows: 200,
  });
  const total = 6_000;
  const rows = async function* (): AsyncGenerator<{ id: number; v: string }> {
    for (let n = 0; n < total; n += 1) {
      if (n === 2_000) await server.restart("immediate");
      if (n === 4_000) await server.restart("fast");
      yield { id: n % 5_000, v: "a" };
    }
  };
  const found = await sink.write(rows());
  expect(found.inserted).toBe(5_000);
  expect(found.unchanged + found.duplicatesInBatch).toBe(1_000);
  await sink.close();
  await other.drop();
  await server.end();
}, 300_000);

test("the ledger forgets batches after the time to keep them, and never one under way", async () => {
  const table = await createTable("id int PRIMARY KEY, v text");
  const sink = open({ ...plain, table, onDuplicate: "ignore" });
  await sink.writeBatch([{ id: 1, v: "a" }], { batchId: "old" });
  await sink.writeBatch([{ id: 2, v: "a" }], { batchId: "young" });
  // A sink reaps by itself, after its first batch and then once a minute.
  await sink.close();
  await database.pool.query(
    "UPDATE idempotency_batches SET written_at = written_at - interval '8 days' WHERE batch_id = 'old'",
  );
  expect(await reapBatches({ pool: database.pool })).toBe(1);
  expect(await reapBatches({ pool: database.pool })).toBe(0);
  const next = open({ ...plain, table, onDuplicate: "ignore" });
  expect(await next.writeBatch([{ id: 1, v: "a" }], { batchId: "old" })).toEqual(
    counts(0, 0, 1, 0),
  );
  expect(await next.writeBatch([{ id: 2, v: "a" }], { batchId: "young" })).toEqual(
    counts(1, 0, 0, 0),
  );
});

test("a server that is away is told as store_unavailable, and a schema that is missing as that", async () => {
  const away = new pg.Pool({ connectionString: "postgres://postgres@127.0.0.1:1/x" });
  const sink = open({ ...plain, pool: away, table: "t", onDuplicate: "ignore", retryForMs: 0 });
  await expect(sink.writeBatch([{ id: 1 }])).rejects.toMatchObject({ code: "store_unavailable" });
  const elsewhere = open({ ...plain, table: "t", onDuplicate: "ignore", schema: "nowhere" });
  await expect(elsewhere.writeBatch([{ id: 1 }])).rejects.toMatchObject({ code: "schema_missing" });
  await sink.close();
  await expect(sink.writeBatch([{ id: 1 }])).rejects.toThrow("The sink was closed.");
  await away.end();
});
