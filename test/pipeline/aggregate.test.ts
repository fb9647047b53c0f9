/** Aggregates: what is marked, computed, removed and filled in, by the merchants' own days. */
import { isIdempotencyError } from "../../src/core/errors.js";
import { recomputeAggregate } from "../../src/pipeline/aggregate.js";
import type { BackfillProgress } from "../../src/pipeline/aggregate-options.js";
import { createDatabase, type Database } from "../support/databases.js";
import {
  countMarks,
  prepareSales,
  revenueOptions,
  revenueRows,
  sell,
  settle,
  trueRows,
} from "./sales.js";

let database: Database;
beforeEach(async () => {
  database = await createDatabase({ prepare: prepareSales });
});
afterEach(() => database.drop());

const open = (changes: object = {}) =>
  recomputeAggregate({ ...revenueOptions(database.pool), ...changes });

test("events that are written, overwritten, moved and deleted are counted as they are", async () => {
  const { pool } = database;
  const revenue = open();
  await sell(pool, "a", "m1", 10);
  await sell(pool, "b", "m1", 20);
  await sell(pool, "c", "m2", 5, "2026-03-02T00:00:00Z");
  expect(await countMarks(pool)).toBe(3);
  expect(await revenue.recomputeMarked()).toEqual({
    keys: 2,
    written: 2,
    removed: 0,
    failed: 0,
    hasMore: true,
  });
  expect(await revenueRows(pool)).toEqual(["m1 2026-03-01 30/2", "m2 2026-03-02 5/1"]);
  expect(await countMarks(pool)).toBe(0);

  // Replaced and never added to, however often.
  const again = [{ merchant_id: "m1", day: "2026-03-01" }];
  expect(await revenue.recompute([...again, ...again])).toMatchObject({ keys: 1, written: 0 });
  // The old key is marked with the new one.
  await sell(pool, "b", "m2", 7, "2026-03-02T00:00:00Z");
  await settle(revenue);
  expect(await revenueRows(pool)).toEqual(["m1 2026-03-01 10/1", "m2 2026-03-02 12/2"]);
  await pool.query("delete from sales where event_id = 'a'");
  await settle(revenue);
  expect(await revenueRows(pool)).toEqual(["m2 2026-03-02 12/2"]);
});

test("what changes nothing marks nothing", async () => {
  const { pool } = database;
  await sell(pool, "a", "m1", 10);
  await settle(open());
  await pool.query("insert into sales select * from sales on conflict do nothing");
  await pool.query(
    `insert into sales select * from sales on conflict (event_id) do update
     set amount = excluded.amount where sales.amount < excluded.amount`,
  );
  expect(await countMarks(pool)).toBe(0);
  // An event of nobody is in no row.
  await pool.query("insert into sales values ('n', null, 1, now())");
  expect(await countMarks(pool)).toBe(0);
});

test("a day is the merchant's own, also when clocks go back at midnight", async () => {
  const { pool } = database;
  await pool.query(
    `insert into merchants values ('berlin', 'Europe/Berlin'), ('la', 'America/Los_Angeles'), ('havana', 'America/Havana')`,
  );
  await sell(pool, "b1", "berlin", 1, "2026-03-28T22:59:59Z");
  await sell(pool, "b2", "berlin", 2, "2026-03-28T23:00:00Z");
  await sell(pool, "b3", "berlin", 4, "2026-03-29T21:59:59Z");
  await sell(pool, "b4", "berlin", 8, "2026-03-29T22:00:00Z");
  await sell(pool, "l1", "la", 1, "2026-03-29T06:59:59Z");
  await sell(pool, "l2", "la", 2, "2026-03-29T07:00:00Z");
  // In Havana 00:30 of 1 November 2026 comes twice, at 04:30Z and at 05:30Z.
  await sell(pool, "h1", "havana", 1, "2026-11-01T03:59:59Z");
  await sell(pool, "h2", "havana", 2, "2026-11-01T04:30:00Z");
  await sell(pool, "h3", "havana", 4, "2026-11-01T05:30:00Z");
  await sell(pool, "h4", "havana", 8, "2026-11-02T04:59:59Z");
  await settle(open());
  expect(await revenueRows(pool)).toEqual([
    "berlin 2026-03-28 1/1",
    "berlin 2026-03-29 6/2",
    "berlin 2026-03-30 8/1",
    "havana 2026-10-31 1/1",
    "havana 2026-11-01 14/3",
    "la 2026-03-28 1/1",
    "la 2026-03-29 2/1",
  ]);
  expect(await revenueRows(pool)).toEqual(await trueRows(pool));
});

test("days far away, and times that are on none, hold up nothing", async () => {
  const { pool } = database;
  await sell(pool, "a", "m1", 1, "0044-03-15T12:00:00Z BC");
  await sell(pool, "d", "m1", 8, "12026-03-01T12:00:00Z");
  await sell(pool, "e", "m1", 16, "2026-03-01T12:00:00Z");
  await settle(open());
  await sell(pool, "b", "m1", 2, "infinity");
  await sell(pool, "c", "m1", 4, "-infinity");
  await settle(open());
  expect(await revenueRows(pool)).toEqual([
    "m1 0044-03-15 BC 1/1",
    "m1 12026-03-01 8/1",
    "m1 2026-03-01 16/1",
  ]);
  expect(await countMarks(pool)).toBe(0);
});

test("thousands of keys that come together are each computed once", async () => {
  const { pool } = database;
  await pool.query(
    `insert into sales select 'e' || n, 'm' || n % 40, n, timestamptz '2026-01-01' + n * interval '37 minutes'
     from generate_series(1, 6000) n`,
  );
  await settle(open({ batchKeys: 5_000 }));
  expect(await revenueRows(pool)).toEqual(await trueRows(pool));
  expect((await revenueRows(pool)).length).toBeGreaterThan(5_000);
});

test("a zone that changes moves the events to other days", async () => {
  const { pool } = database;
  const revenue = open();
  await sell(pool, "a", "m1", 1, "2026-03-01T03:00:00Z");
  await sell(pool, "b", "m1", 2, "2026-03-01T22:00:00Z");
  await settle(revenue);
  await sell(pool, "c", "m1", 4, "2026-07-01T22:00:00Z");
  for (const zone of ["America/New_York", "Asia/Tokyo"]) {
    await revenue.changeTimeZone({ merchant_id: "m1" }, (tx) =>
      tx.query(
        `insert into merchants values ('m1', $1)
         on conflict (merchant_id) do update set time_zone = excluded.time_zone`,
        [zone],
      ),
    );
    await settle(revenue);
    expect(await revenueRows(pool)).toEqual(await trueRows(pool));
  }
  expect(await revenueRows(pool)).toEqual([
    "m1 2026-03-01 1/1",
    "m1 2026-03-02 2/1",
    "m1 2026-07-02 4/1",
  ]);
});

test("a key that cannot be computed holds up no other", async () => {
  const { pool } = database;
  const revenue = open();
  const most = "9223372036854775807";
  await pool.query(
    `insert into sales values ('x', 'bad', ${most}, '2026-03-01'), ('y', 'bad', ${most}, '2026-03-01')`,
  );
  await sell(pool, "a", "m1", 10);
  expect(await revenue.recomputeMarked()).toEqual({
    keys: 1,
    written: 1,
    removed: 0,
    failed: 1,
    hasMore: true,
  });
  expect(await revenueRows(pool)).toEqual(["m1 2026-03-01 10/1"]);
  expect(await revenue.marked()).toEqual([{ merchant_id: "bad", day: "2026-03-01" }]);
  // It is mended as soon as its events are.
  await pool.query("update sales set amount = 1 where event_id = 'x'");
  await pool.query("update sales set amount = 2 where event_id = 'y'");
  await settle(revenue);
  expect(await revenueRows(pool)).toContain("bad 2026-03-01 3/2");
});

test("a range of days is filled in, with progress, and can be ended and begun again", async () => {
  const { pool } = database;
  await pool.query("alter table sales disable trigger user");
  for (const [index, day] of ["02-27", "02-28", "03-01", "03-03", "03-04"].entries())
    for (const merchant of ["m1", "m2", "m3"])
      await sell(pool, `${merchant}-${day}`, merchant, index + 1, `2026-${day}T12:00:00Z`);
  await pool.query("alter table sales enable trigger user");
  // Rows of nothing, as a fault in the past may have left them.
  await pool.query(
    "insert into revenue values ('m1', '2026-03-02', 99, 9), ('m9', '2026-03-03', 99, 9)",
  );

  const revenue = open({ batchKeys: 2 });
  const told: string[] = [];
  const ended = new AbortController();
  const onProgress = ({ day, daysDone, daysTotal, keys }: BackfillProgress): void => {
    told.push(`${day} ${daysDone}/${daysTotal} ${keys}`);
    if (keys === 6) ended.abort();
  };
  const range = { from: "2026-02-28", to: "2026-03-03" };
  await revenue.backfill({ ...range, onProgress, signal: ended.signal });
  expect(told).toEqual([
    "2026-02-28 0/4 2",
    "2026-02-28 1/4 3",
    "2026-03-01 1/4 5",
    "2026-03-01 2/4 6",
  ]);
  const counts = await revenue.backfill(range);
  expect(counts).toMatchObject({ keys: 3 + 3 + 1 + 4, removed: 2 });
  expect(await revenueRows(pool)).toEqual(
    (await trueRows(pool)).filter((row) => !/02-27|03-04/.test(row)),
  );
  expect(
    await revenue.backfill({ from: "2026-02-01", to: "2026-03-31", where: { merchant_id: "m2" } }),
  ).toMatchObject({ keys: 5, written: 2 });
  expect(await revenue.backfill({ from: "2026-03-31", to: "2026-03-01" })).toMatchObject({
    keys: 0,
  });
});

test("triggers are there once, and follow the description", async () => {
  const { pool } = database;
  const count = async (): Promise<number> =>
    (await pool.query("select from pg_trigger where tgname like 'oncekey_%'")).rowCount ?? 0;
  const functions = async (): Promise<number> =>
    (await pool.query("select from pg_proc where proname like 'oncekey_%'")).rowCount ?? 0;
  await Promise.all([open().prepare(), open().prepare()]);
  expect([await count(), await functions()]).toEqual([3, 3]);
  const other = open({ day: { column: "day", of: "occurred_at", timeZone: "Asia/Tokyo" } });
  await Promise.all([other.prepare(), other.prepare()]);
  expect([await count(), await functions()]).toEqual([3, 3]);
  await sell(pool, "a", "m1", 1, "2026-03-01T22:00:00Z");
  await settle(other);
  expect(await revenueRows(pool)).toEqual(["m1 2026-03-02 1/1"]);
});

describe("what is wrong with a description is said at once:", () => {
  const detail = (work: () => unknown): string => {
    try {
      work();
    } catch (error) {
      if (isIdempotencyError(error)) return `${error.code}: ${error.message}`;
    }
    return "nothing";
  };

  test("its options", () => {
    const wrong = { key: [], source: "", batchKeys: 0, extra: 1 };
    expect(detail(() => open(wrong))).toBe(
      "options_invalid: Options of recomputeAggregate: source: must be a table, or a schema and a table with a dot; key: Too small: expected array to have >=1 items; batchKeys: Too small: expected number to be >=1; extra: is not an option.",
    );
    const twice = {
      key: ["merchant_id", "amount"],
      day: {
        column: "amount",
        of: "occurred_at",
        timeZone: { table: "z", on: ["x"], column: "c" },
      },
    };
    expect(detail(() => open(twice))).toBe(
      "options_invalid: Options of recomputeAggregate: key, day and values name a column twice: amount,amount; day.timeZone.on: not in the key: x.",
    );
  });

  test("its tables", async () => {
    const keys = [{ merchant_id: "m1", day: "2026-03-01" }];
    await expect(open({ target: "nowhere" }).recompute(keys)).rejects.toThrow("nowhere is missing");
    const other = open({
      day: { column: "events", of: "occurred_at" },
      values: { amount: "sum(amount)" },
    });
    await expect(other.prepare()).rejects.toThrow("must be of type date");
    await expect(open().recompute([{ day: "2026-03-01" }])).rejects.toThrow("lacks merchant_id");
    await expect(open().backfill({ from: "1 March", to: "2026-03-02" })).rejects.toThrow(
      "2026-01-31",
    );
    await database.pool.query("drop table idempotency_dirty_keys");
    await expect(open().recomputeMarked()).rejects.toMatchObject({ code: "schema_missing" });
  });
});
