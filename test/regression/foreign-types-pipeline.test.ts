/**
 * The same story as in foreign-types.test.ts, for what pipelines read: the catalog, the ledger of batches, the keys of aggregates and
 * the places of sources. An application whose pg gave booleans or JSON as texts had a sink that took every column for a
 * generated one; and where the database had another DateStyle, a backfill named its days as `01/03/2026`.
 */
import type { Redis } from "ioredis";

import {
  describeTable,
  listBatches,
  reapBatches,
  recomputeAggregate,
  redisStreamSource,
  textRows,
  upsertSink,
} from "../../src/pipeline.js";
import { revenueOptions, salesTables, sell } from "../pipeline/sales.js";
import { foreignWays, useForeignTypes, useless } from "../stores/foreign-types.js";
import { connectRedis } from "../stores/open-stores.js";
import { waitFor } from "../support/wait-for.js";

describe.each(foreignWays)("with %s", (way) => {
  const foreign = useForeignTypes(way);
  const one = way === "own parsers in pg" ? useless : 1;
  const description = {
    table: "public.items",
    key: "id",
    columns: ["id", "at", "data", "bytes", "n"],
    version: "at",
  };
  beforeAll(() =>
    foreign.plain.query(
      `CREATE TABLE items (id int PRIMARY KEY, at timestamptz NOT NULL, data jsonb, bytes bytea, n float8,
         twice float8 GENERATED ALWAYS AS (n * 2) STORED);
       ${salesTables}`,
    ),
  );

  test("a sink knows its table, counts exactly and finds its batches again", async () => {
    const { pool } = foreign;
    let seen: unknown;
    const sink = upsertSink({
      pool,
      ...description,
      onDuplicate: "overwrite",
      inTransaction: async ({ query }) => {
        const { rows } = await query("SELECT 1 AS one");
        seen = (rows[0] as { one: unknown }).one;
      },
    });
    const row = (id: number, at: string) => ({
      id,
      at: new Date(at),
      data: { a: [1.5] },
      bytes: Buffer.from([0, 92, 255]),
      n: 0.1 + 0.2,
    });
    const rows = [row(1, "2026-02-03T04:05:06.789Z"), row(2, "2026-02-03T04:05:06Z")];
    try {
      const written = { inserted: 2, updated: 0, unchanged: 0, duplicatesInBatch: 0 };
      expect(await sink.writeBatch(rows, { batchId: "load:1" })).toEqual(written);
      expect(await sink.writeBatch(rows, { batchId: "load:1" })).toEqual(written);
      const newer = [row(1, "2026-02-03T04:05:07Z"), row(2, "2026-02-03T04:05:05Z")];
      const changed = { inserted: 0, updated: 1, unchanged: 1, duplicatesInBatch: 0 };
      expect(await sink.writeBatch(newer, { batchId: "load:2" })).toEqual(changed);
      // The statements of the application are read as it has said.
      expect(seen).toBe(one);
      const place = { pool, target: "public.items", prefix: "load:" };
      expect(await listBatches(place)).toEqual(
        new Map([
          ["load:1", written],
          ["load:2", changed],
        ]),
      );
      expect(await reapBatches({ pool, keepBatchesMs: -1 })).toBe(2);
    } finally {
      await sink.close();
    }
    const stored = await foreign.rowsOf(
      `SELECT id, to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.MS') AS at, encode(bytes, 'hex') AS bytes,
         n = 0.1::float8 + 0.2::float8 AS exact FROM items ORDER BY id`,
    );
    expect(stored).toEqual([
      { id: "1", at: "2026-02-03 04:05:07.000", bytes: "005cff", exact: "t" },
      { id: "2", at: "2026-02-03 04:05:06.000", bytes: "005cff", exact: "t" },
    ]);
  });

  test("what a file is loaded by", async () => {
    const { pool } = foreign;
    const table = await describeTable({ pool, table: "items" });
    expect(table?.target).toBe("public.items");
    expect(table?.columns).toEqual(["id", "at", "data", "bytes", "n"]);
    const rows = await textRows({ pool, ...description, onDuplicate: "overwrite" });
    expect(rows.reader("bytes")?.("\\x00ff")).toEqual({ value: Buffer.from([0, 255]) });
  });

  test("aggregates are prepared, marked, computed and filled in", async () => {
    const { pool } = foreign;
    const revenue = recomputeAggregate(revenueOptions(pool));
    await revenue.prepare();
    await revenue.prepare();
    await sell(pool, "a", "m1", 10, "2026-03-01T12:00:00Z");
    await sell(pool, "b", "m1", 20, "2026-03-02T12:00:00Z");
    const keys = [
      { merchant_id: "m1", day: "2026-03-01" },
      { merchant_id: "m1", day: "2026-03-02" },
    ];
    const byDay = (a: { day?: unknown }, b: { day?: unknown }): number =>
      String(a.day) < String(b.day) ? -1 : 1;
    const marked = await revenue.marked({ from: "2026-03-01" });
    expect([...marked].sort(byDay)).toEqual(keys);
    expect(await revenue.recomputeMarked()).toMatchObject({ keys: 2, written: 2 });
    await foreign.plain.query("TRUNCATE revenue");
    const days: string[] = [];
    const given = { from: "2026-03-01", to: "2026-03-03" };
    const done = await revenue.backfill({ ...given, onProgress: ({ day }) => days.push(day) });
    expect(done).toMatchObject({ keys: 2, written: 2 });
    expect(days).toEqual(["2026-03-01", "2026-03-02", "2026-03-03"]);
    expect(await revenue.recompute([...keys, ...keys])).toMatchObject({ keys: 2, written: 0 });
    const stored = "SELECT to_char(day, 'YYYY-MM-DD') AS day, amount FROM revenue ORDER BY 1";
    expect(await foreign.rowsOf(stored)).toEqual([
      { day: "2026-03-01", amount: "10" },
      { day: "2026-03-02", amount: "20" },
    ]);
  });

  describe("a stream", () => {
    let client: Redis;
    beforeAll(async () => {
      client = await connectRedis();
    });
    afterAll(async () => {
      await client.del(foreign.name);
      client.disconnect();
    });

    test("is read once, also by a consumer that begins anew", async () => {
      const { pool } = foreign;
      await foreign.plain.query("TRUNCATE items");
      const ids = [
        await client.xadd(foreign.name, "*", "id", "1"),
        await client.xadd(foreign.name, "*", "id", "2"),
      ];
      const decoded: string[] = [];
      const read = async (group: string): Promise<void> => {
        const reader = await connectRedis();
        const stop = new AbortController();
        const source = redisStreamSource({
          client: reader,
          stream: foreign.name,
          group,
          consumer: "one",
          name: "items",
          pool,
          blockMs: 50,
          decode: ({ id, fields }) => {
            decoded.push(id);
            return { id: Number(fields["id"]), at: new Date(0), data: null, bytes: null, n: null };
          },
          sink: (inTransaction) =>
            upsertSink({ pool, ...description, onDuplicate: "overwrite", inTransaction }),
        });
        const running = source.run({ signal: stop.signal });
        const isRead = async (): Promise<boolean> => {
          const groups = (await client.xinfo("GROUPS", foreign.name)) as unknown[][];
          const mine = groups.find(([, name]) => name === group) ?? [];
          const tell = (name: string): unknown => mine[mine.indexOf(name) + 1];
          return tell("last-delivered-id") === ids[1] && tell("pending") === 0;
        };
        try {
          // A run that ends by itself has failed, and says why.
          await Promise.race([running, waitFor(isRead)]);
        } finally {
          stop.abort();
          await running.finally(() => reader.disconnect());
        }
      };
      await read("first");
      // Another group gets every entry again, and finds all of them stored.
      await read("second");
      expect(decoded).toEqual(ids);
      expect(await foreign.rowsOf("SELECT id FROM items ORDER BY id")).toEqual([
        { id: "1" },
        { id: "2" },
      ]);
    });
  });
});
