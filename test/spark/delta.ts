/** mergeSink on a real Delta Lake: Spark's Thrift Server through hive-driver, read back by Spark and by delta-rs. */
import { execFileSync } from "node:child_process";
import { existsSync, readdirSync, utimesSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";

import { parquetWriteBuffer } from "hyparquet-writer";

import { folderStorage, mergeSink } from "../../src/pipeline.js";
import type { DeltaEngine, RunStatement, SinkRow } from "../../src/pipeline.js";
import { describeMerge } from "../pipeline/merge-rounds.js";
import { startProgram } from "../support/server-process.js";
import { openSession, startSpark } from "./spark-server.js";
import type { SparkServer, SparkSession } from "./spark-server.js";

const python = resolve(".cache/spark/venv/bin/python");
const home = execFileSync(
  python,
  ["-c", "import os, pyspark; print(os.path.dirname(pyspark.__file__))"],
  { encoding: "utf8" },
).trim();
const columns = ["id", "version", "merchant", "amount"];
const day = 86_400_000;

let spark: SparkServer;
let session: SparkSession;
let folder: string;
let tables = 0;

beforeAll(async () => {
  spark = await startSpark(home);
  session = await openSession(spark.port);
  folder = join(spark.folder, "batches");
});
afterAll(() => session.close());

const engineOn = (run: RunStatement): DeltaEngine => ({
  dialect: "delta",
  run,
  storage: folderStorage({ folder }),
  writeParquet: parquetWriteBuffer,
});

const quote = (table: string): string => `\`${table}\``;

async function makeTable(): Promise<string> {
  const table = `orders_${(tables += 1)}`;
  const types = "id STRING, version BIGINT, merchant STRING, amount DECIMAL(20, 2)";
  await session.run(`CREATE TABLE ${quote(table)} (${types}) USING delta`, []);
  return table;
}

/** Both readers have to see the same. */
async function read(table: string): Promise<string[]> {
  const text = `SELECT concat_ws('|', id, version, coalesce(merchant, ''), amount) AS line FROM ${quote(table)} ORDER BY id`;
  const lines = (await session.run(text, [])).map(({ line }) => String(line));
  const path = join(spark.folder, "warehouse", table);
  const output = execFileSync(python, ["test/spark/read_delta.py", path], { encoding: "utf8" });
  const others = output
    .trim()
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => JSON.parse(line) as string);
  expect(others).toEqual(lines);
  return lines;
}

const sinkFor = (table: string, run: RunStatement = session.run, more: object = {}) =>
  mergeSink({
    table,
    key: "id",
    columns,
    onDuplicate: "overwrite",
    version: "version",
    engine: engineOn(run),
    ...more,
  });

const row = (id: string, version: number, merchant = "m"): SinkRow => ({
  id,
  version,
  merchant,
  amount: "1.00",
});

describe("Delta Lake", () => {
  describeMerge({
    engine: () => engineOn((...given) => session.run(...given)),
    makeTable,
    read,
    batchRows: [60, 20, 30],
  });

  test("no file is left behind", () => {
    expect(existsSync(folder) ? readdirSync(folder) : undefined).toEqual([]);
  });
});

test("two writers at once: Delta refuses one of the commits, which is tried again", async () => {
  const table = await makeTable();
  const sessions = [await openSession(spark.port), await openSession(spark.port)];
  const refusals: string[] = [];
  try {
    for (let round = 0; round < 20 && refusals.length === 0; round += 1) {
      const names = Array.from({ length: 20 }, (_, n) => `e${n}`);
      const rows = names.map((name) => row(name, round, `m${round}`));
      await Promise.all(
        sessions.map(({ run }) => {
          const noting: RunStatement = async (text, values) => {
            try {
              return await run(text, values);
            } catch (error) {
              refusals.push((error as Error).message);
              throw error;
            }
          };
          return sinkFor(table, noting, { batchRows: 10 }).write(rows);
        }),
      );
      expect(await read(table)).toEqual(
        names.toSorted().map((name) => `${name}|${round}|m${round}|1.00`),
      );
    }
  } finally {
    for (const one of sessions) await one.close();
  }
  expect(refusals.length).toBeGreaterThan(0);
  for (const refusal of refusals)
    expect(refusal).toMatch(/DELTA_CONCURRENT|Concurrent\w+Exception/);
});

test.each(["before", "during"] as const)(
  "kill -9 %s the MERGE, then the same rows again",
  async (stopAt) => {
    const table = await makeTable();
    const rows = [row("a", 1), row("a", 3, "third"), row("b", 2), row("a", 2)];
    await sinkFor(table).writeBatch([row("b", 1, "old"), row("c", 1)]);
    const plan = { port: spark.port, table, folder, rows, columns, stopAt };
    const program = startProgram("test/spark/programs/writer.ts", { args: [JSON.stringify(plan)] });
    await program.waitForOutput(/stopped/, 60_000);
    await program.kill();
    const left = readdirSync(folder);
    expect(left).toHaveLength(1);

    const expected = ["a|3|third|1.00", "b|2|m|1.00", "c|1|m|1.00"];
    await sinkFor(table).writeBatch(rows);
    expect(await read(table)).toEqual(expected);
    await sinkFor(table).writeBatch(rows.toReversed());
    expect(await read(table)).toEqual(expected);
    // Somebody may still be merging it, so it stays for a day.
    expect(readdirSync(folder)).toEqual(left);
    writeFileSync(join(folder, "of-somebody-else.parquet"), "");
    const longAgoMs = performance.timeOrigin - 2 * day;
    for (const name of [...left, "of-somebody-else.parquet"])
      utimesSync(join(folder, name), longAgoMs / 1_000, longAgoMs / 1_000);
    await sinkFor(table).writeBatch([row("d", 1)]);
    expect(readdirSync(folder)).toEqual(["of-somebody-else.parquet"]);
    await folderStorage({ folder }).remove("of-somebody-else.parquet");
  },
);

test("values that Spark would make NULL of fail the batch, and nested ones arrive", async () => {
  await session.run(
    "CREATE TABLE kinds (id STRING, at TIMESTAMP, day DATE, tags ARRAY<STRING>, yes BOOLEAN, n INT, raw BINARY) USING delta PARTITIONED BY (day)",
    [],
  );
  const sink = mergeSink({
    table: "kinds",
    key: "id",
    partition: "day",
    columns: ["id", "at", "day", "tags", "yes", "n", "raw"],
    onDuplicate: "overwrite",
    engine: engineOn(session.run),
  });
  const good = {
    id: "a",
    at: new Date("2026-01-31T23:59:59.999Z"),
    day: "2026-01-31",
    tags: ["x", "y'\"\\"],
    yes: true,
    n: -5,
    raw: new Uint8Array([1, 255]),
  };
  await sink.writeBatch([good]);
  const text =
    "SELECT id, CAST(at AS STRING) AS at, CAST(day AS STRING) AS day, concat_ws('+', tags) AS tags, yes, n, hex(raw) AS raw FROM kinds";
  const stored = [
    {
      id: "a",
      at: "2026-01-31 23:59:59.999",
      day: "2026-01-31",
      tags: "x+y'\"\\",
      yes: true,
      n: -5,
      raw: "01FF",
    },
  ];
  expect(await session.run(text, [])).toEqual(stored);
  for (const bad of [{ at: "yesterday" }, { n: 2 ** 31 }, { n: 1.5 }, { yes: "yes" }, { raw: "x" }])
    await expect(sink.writeBatch([{ ...good, ...bad }])).rejects.toMatchObject({
      code: "row_invalid",
    });
  expect(await session.run(text, [])).toEqual(stored);
  expect(readdirSync(folder)).toEqual([]);
});
