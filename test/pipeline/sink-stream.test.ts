/** Rows that come one after another: batches by size, bytes and time, several writers, and who waits for whom. */
import { once } from "node:events";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { setTimeout as pause } from "node:timers/promises";

import { seededRandom } from "../support/tcp-proxy.js";
import { waitForLockWaits } from "../support/lock-waits.js";
import { waitFor } from "../support/wait-for.js";
import { counts, useSinks } from "./sink-bench.js";

const { database, open, createTable, rowsOf } = useSinks();
const plain = { key: "id", columns: ["id", "v"] } as const;
const batches = async (): Promise<number> =>
  (await database.pool.query("SELECT 1 FROM idempotency_batches")).rowCount ?? 0;

type Pair = { readonly id: number; readonly v: string };
function pairs(total: number, distinct: number, seed = 1): Pair[] {
  const random = seededRandom(seed);
  return Array.from({ length: total }, () => {
    const id = Math.floor(random() * distinct);
    return { id, v: `v${id}` };
  });
}

test.each([
  ["an array", (rows: Pair[]) => rows],
  [
    "an async generator",
    async function* (rows: Pair[]) {
      yield* rows;
    },
  ],
  ["a stream", (rows: Pair[]) => Readable.from(rows)],
])("%s is written whole, by several writers", async (_name, from) => {
  const table = await createTable("id int PRIMARY KEY, v text");
  const rows = pairs(20_000, 5_000);
  const distinct = new Set(rows.map(({ id }) => id)).size;
  const sink = open({ ...plain, table, onDuplicate: "ignore", batchRows: 700, writers: 3 });
  const first = await sink.write(from(rows) as AsyncIterable<Pair>);
  expect(first.inserted).toBe(distinct);
  expect(first.unchanged + first.duplicatesInBatch).toBe(rows.length - distinct);
  const second = await sink.write(from(rows) as AsyncIterable<Pair>);
  expect(second).toMatchObject({ inserted: 0, updated: 0 });
  expect(second.unchanged + second.duplicatesInBatch).toBe(rows.length);
  expect(await rowsOf(table)).toHaveLength(distinct);
});

test("with a version, two orders and two runs leave the same bytes", async () => {
  const random = seededRandom(7);
  const rows = Array.from({ length: 6_000 }, () => ({
    id: Math.floor(random() * 1_000),
    n: Math.floor(random() * 4),
    v: `v${Math.floor(random() * 5)}`,
    x: (Math.floor(random() * 3) / 2).toFixed(Math.floor(random() * 3)),
  }));
  const sums: unknown[] = [];
  for (const order of [rows, rows.toReversed(), [...rows].sort((a, b) => a.v.localeCompare(b.v))]) {
    const table = await createTable("id int PRIMARY KEY, n int, v text, x numeric");
    for (let run = 0; run < 2; run += 1) {
      const sink = open({
        table,
        key: "id",
        columns: ["id", "n", "v", "x"],
        onDuplicate: "overwrite",
        version: "n",
        batchRows: 300,
        writers: 2,
      });
      await sink.write(order);
      const { rows: sum } = await database.pool.query(
        `SELECT md5(string_agg(t::text, ';' ORDER BY id)) AS sum FROM ${table} t`,
      );
      sums.push(sum[0]);
    }
  }
  expect(new Set(sums.map((sum) => JSON.stringify(sum))).size).toBe(1);
});

test("of the rows of a key the last one stays, whatever writers and batches they fall into", async () => {
  const table = await createTable("id int PRIMARY KEY, v text");
  const sink = open({ ...plain, table, onDuplicate: "overwrite", batchRows: 20, writers: 4 });
  const rows = pairs(6_000, 300).map(({ id }, n) => ({ id, v: `${n}` }));
  await sink.write(rows);
  const last = new Map(rows.map((row) => [row.id, row]));
  expect(await rowsOf(table)).toEqual([...last.values()].sort((a, b) => a.id - b.id));
});

test("rows of one key never fall into two batches that are written at once", async () => {
  const table = await createTable("id int PRIMARY KEY, v text");
  const sink = open({ ...plain, table, onDuplicate: "ignore", batchRows: 50, writers: 4 });
  const rows = Array.from({ length: 8_100 }, (_, n) => ({
    id: n - (n % 162 < 81 ? 0 : 81),
    v: "a",
  }));
  const written = await sink.write(rows);
  expect([written.inserted, written.unchanged + written.duplicatesInBatch]).toEqual([4_050, 4_050]);
  // With `ignore` only a copy that met a key of another transaction leads there.
  const staging = await database.pool.query(
    "SELECT FROM pg_class WHERE relname LIKE 'oncekey_staged_%'",
  );
  expect(staging.rowCount).toBe(0);
});

test("answers of the server are heard while a source that never waits goes on", async () => {
  const table = await createTable("id int PRIMARY KEY, v text");
  const sink = open({ ...plain, table, onDuplicate: "ignore", batchRows: 20_000, writers: 1 });
  let turns = 0;
  let isOver = false;
  const count = (): void => {
    turns += 1;
    if (!isOver) setImmediate(count);
  };
  let turnsWhileWriting = 0;
  await sink.write(
    (function* () {
      for (let id = 0; id < 40_000; id += 1) {
        // The first batch is under way now.
        if (id === 20_000) count();
        if (id === 25_000) turnsWhileWriting = turns;
        yield { id, v: "a" };
      }
    })(),
  );
  isOver = true;
  expect(turnsWhileWriting).toBeGreaterThan(5);
});

test("as a Writable: finish comes when all is durable, and counts say what was done", async () => {
  const table = await createTable("id int PRIMARY KEY, v text");
  const sink = open({ ...plain, table, onDuplicate: "overwrite", batchRows: 100, writers: 2 });
  const stream = sink.writable();
  await pipeline(Readable.from(pairs(1_000, 300)), stream);
  expect(stream.counts.inserted).toBe((await rowsOf(table)).length);
  const { inserted, unchanged, duplicatesInBatch } = stream.counts;
  expect(inserted + unchanged + duplicatesInBatch).toBe(1_000);
});

test("a batch that is not full goes when its time is over, and one that has too many bytes at once", async () => {
  const table = await createTable("id int PRIMARY KEY, v text");
  const sink = open({ ...plain, table, onDuplicate: "ignore", batchMs: 20, writers: 1 });
  const stream = sink.writable();
  stream.write({ id: 1, v: "a" });
  await waitFor(async () => (await rowsOf(table)).length === 1, { what: "the row" });
  stream.end();
  await once(stream, "close");
  const before = await batches();
  const large = open({ ...plain, table, onDuplicate: "ignore", maxBatchBytes: 4_096, writers: 1 });
  const rows = Array.from({ length: 10 }, (_, id) => ({ id: id + 10, v: "x".repeat(1_500) }));
  expect(await large.write(rows)).toEqual(counts(10, 0, 0, 0));
  expect((await batches()) - before).toBe(4);
});

type Source = (asked: () => Pair | undefined) => AsyncIterable<Pair>;
type BlockSource = (asked: () => Pair | undefined) => AsyncIterable<Pair[]>;
const oneByOne: Source = async function* (next) {
  for (let row = next(); row !== undefined; row = next()) yield row;
};
const inBlocks: BlockSource = async function* (next) {
  for (let row = next(); row !== undefined; row = next())
    yield [row, next()].filter((one) => one !== undefined);
};

test.each(["write", "writeBlocks"] as const)(
  "%s asks for no more than the database takes",
  async (way) => {
    const table = await createTable("id int PRIMARY KEY, v text");
    const sink = open({ ...plain, table, onDuplicate: "ignore", batchRows: 10, writers: 1 });
    const lock = await database.pool.connect();
    let asked = 0;
    const next = (): Pair | undefined => {
      asked += 1;
      return asked > 500 ? undefined : { id: asked, v: "a" };
    };
    try {
      await sink.writeBatch([]);
      await lock.query("BEGIN");
      await lock.query(`LOCK TABLE ${table} IN ACCESS EXCLUSIVE MODE`);
      const written =
        way === "write" ? sink.write(oneByOne(next)) : sink.writeBlocks(inBlocks(next));
      await waitForLockWaits(database.pool);
      // One batch is being written and one is full.
      await waitFor(() => asked >= 20, { what: "the second batch" });
      await pause(100);
      expect(asked).toBe(20);
      await lock.query("COMMIT");
      expect(await written).toEqual(counts(500, 0, 0, 0));
    } finally {
      lock.release();
    }
  },
);

test("a batch that fails ends everything at once, also while the source is silent", async () => {
  const table = await createTable("id int PRIMARY KEY, v text CHECK (v <> 'bad')");
  const sink = open({ ...plain, table, onDuplicate: "ignore", batchRows: 1, writers: 1 });
  let isReturned = false;
  const silentAfter = <T>(value: T): AsyncIterable<T> => ({
    [Symbol.asyncIterator]: () => {
      let next = 0;
      return {
        next: () => {
          next += 1;
          if (next === 1) return Promise.resolve({ done: false, value });
          return new Promise(() => undefined);
        },
        return: () => {
          isReturned = true;
          return Promise.resolve({ done: true, value: undefined });
        },
      };
    },
  });
  const bad = { id: 1, v: "bad" };
  await expect(sink.write(silentAfter(bad))).rejects.toMatchObject({ code: "row_invalid" });
  expect(isReturned).toBe(true);
  isReturned = false;
  await expect(sink.writeBlocks(silentAfter([bad]))).rejects.toMatchObject({ code: "row_invalid" });
  expect(isReturned).toBe(true);
  const stream = sink.writable();
  stream.write({ id: 1, v: "bad" });
  const [error] = (await once(stream, "error")) as [unknown];
  expect(error).toMatchObject({ code: "row_invalid" });
});

test("rows are numbered as they were written, across batches and writers", async () => {
  const table = await createTable("id int PRIMARY KEY, v text");
  const numbers: number[] = [];
  const sink = open({
    ...plain,
    table,
    onDuplicate: "ignore",
    batchRows: 7,
    writers: 3,
    onBadRow: ({ rowNumber }) => void numbers.push(rowNumber),
  });
  const rows = Array.from({ length: 100 }, (_, id) => ({ id, v: id % 25 === 24 ? 5 : "a" }));
  expect(await sink.write(rows)).toEqual(counts(96, 0, 0, 0));
  expect(numbers).toEqual([25, 50, 75, 100]);
});
