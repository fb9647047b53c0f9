/** mergeSink on Postgres' own MERGE, and its options. The other engines: npm run test:merge and npm run test:spark. */
import pg from "pg";

import { mergeSink } from "../../src/pipeline.js";
import type { StatementEngine } from "../../src/pipeline.js";
import { useDatabase } from "../support/databases.js";
import { waitFor } from "../support/wait-for.js";
import { describeMerge } from "./merge-rounds.js";

const database = useDatabase();

const engine = (): StatementEngine => ({
  dialect: "postgres",
  run: async (text, values) => (await database.pool.query(text, [...values])).rows,
});

describe("Postgres", () => {
  let tables = 0;
  describeMerge({
    engine,
    makeTable: async () => {
      const table = `odd "name" ${(tables += 1)}`;
      await database.pool.query(
        `CREATE TABLE ${pg.escapeIdentifier(table)} (id text PRIMARY KEY, version bigint, merchant text, amount numeric(20, 2), more int)`,
      );
      return table;
    },
    read: async (table) => {
      const { rows } = await database.pool.query<{ line: string }>(
        `SELECT concat_ws('|', id, version, coalesce(merchant, ''), amount) AS line
           FROM ${pg.escapeIdentifier(table)} ORDER BY id COLLATE "C"`,
      );
      return rows.map(({ line }) => line);
    },
  });
});

test("an index on other columns than the key's is not enough", async () => {
  await database.pool.query("CREATE TABLE loose (id text, day date, UNIQUE (id, day))");
  const sink = mergeSink({
    table: "loose",
    key: "id",
    columns: ["id", "day"],
    onDuplicate: "ignore",
    engine: engine(),
  });
  await expect(sink.writeBatch([{ id: "a", day: "2026-01-01" }])).rejects.toMatchObject({
    code: "table_unsuitable",
    message: "Table loose: no unique index is on exactly (id).",
  });
});

test("a key that somebody else inserts meanwhile is found by the next try", async () => {
  const { pool } = database;
  await pool.query("CREATE TABLE race (id text PRIMARY KEY, version integer)");
  const other = await pool.connect();
  try {
    await other.query("BEGIN");
    await other.query("INSERT INTO race VALUES ('a', 1)");
    let tries = 0;
    const { run } = engine();
    const sink = mergeSink({
      table: "race",
      key: "id",
      columns: ["id", "version"],
      onDuplicate: "overwrite",
      version: "version",
      engine: {
        dialect: "postgres",
        run: (text, values) => {
          if (text.startsWith("MERGE")) tries += 1;
          return run(text, values);
        },
      },
    });
    const merged = sink.writeBatch([{ id: "a", version: 2 }]);
    const isWaiting = async (): Promise<boolean> => {
      const { rows } = await pool.query(
        "SELECT FROM pg_locks WHERE NOT granted AND pid IN (SELECT pid FROM pg_stat_activity WHERE datname = current_database())",
      );
      return rows.length > 0;
    };
    await waitFor(isWaiting, { timeoutMs: 60_000, what: "the MERGE to wait" });
    await other.query("COMMIT");
    await merged;
    expect(tries).toBe(2);
    const { rows } = await pool.query("SELECT * FROM race");
    expect(rows).toEqual([{ id: "a", version: 2 }]);
  } finally {
    other.release();
  }
});

test("a clash on another index than the key's ends the batch at once", async () => {
  await database.pool.query("CREATE TABLE mails (id text PRIMARY KEY, mail text UNIQUE)");
  const columns = ["id", "mail"];
  const sink = mergeSink({
    table: "mails",
    key: "id",
    columns,
    onDuplicate: "ignore",
    engine: engine(),
  });
  await sink.writeBatch([{ id: "a", mail: "m" }]);
  const merged = sink.writeBatch([{ id: "b", mail: "m" }]);
  await expect(merged).rejects.toMatchObject({ code: "23505", constraint: "mails_mail_key" });
});

test("a batch that is not full is merged after batchMs, while the source waits", async () => {
  await database.pool.query("CREATE TABLE slow (id text PRIMARY KEY)");
  const description = { table: "slow", key: "id", columns: ["id"], onDuplicate: "ignore" } as const;
  const merged: string[] = [];
  let told: () => void = () => undefined;
  const isMerged = new Promise<void>((resolve) => (told = resolve));
  const { run } = engine();
  const sink = mergeSink({
    ...description,
    batchMs: 5,
    engine: {
      dialect: "postgres",
      run: async (text, values) => {
        const rows = await run(text, values);
        if (text.startsWith("MERGE")) {
          merged.push(...values);
          told();
        }
        return rows;
      },
    },
  });
  const source = async function* () {
    yield { id: "a" };
    await isMerged;
    yield { id: "b" };
  };
  expect(await sink.write(source())).toEqual({ rows: 2, badRows: 0, batches: 2 });
  expect(merged).toEqual([
    '[{"id":"a","oncekey_position":0}]',
    '[{"id":"b","oncekey_position":0}]',
  ]);
});

test("every problem of the options is reported at once", () => {
  expect(() =>
    mergeSink({
      table: "a.b.c.d",
      key: "id",
      columns: [],
      onDuplicate: "append" as never,
      engine: { dialect: "oracle" } as never,
      colour: 1,
    } as never),
  ).toThrow(
    /^Options of mergeSink: table: .*; columns: .*; onDuplicate: .*; engine.dialect: .*; colour: is not an option\.$/,
  );
  expect(() =>
    mergeSink({
      table: "a",
      key: ["id", "id"],
      columns: ["a", "A"],
      onDuplicate: "ignore",
      version: "id",
      engine: engine(),
    }),
  ).toThrow(
    "Options of mergeSink: columns: id must be among them; columns: id must be among them; columns: id must be among them; " +
      "columns: one is named twice; key: one column is named twice; version: only with onDuplicate: overwrite; " +
      "version: must not be part of the key.",
  );
});
