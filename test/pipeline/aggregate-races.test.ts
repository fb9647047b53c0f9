/**
 * Recomputes and events that race, held at chosen points by locks that the test takes, and seen to wait by Postgres' own word.
 */
import type pg from "pg";

import { recomputeAggregate } from "../../src/pipeline/aggregate.js";
import { aggregateWorker } from "../../src/workers/aggregates.js";
import { createDatabase, type Database } from "../support/databases.js";
import { waitForLockWaits } from "../support/lock-waits.js";
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
const clients: pg.PoolClient[] = [];
beforeEach(async () => {
  database = await createDatabase({ prepare: prepareSales });
});
afterEach(async () => {
  // What a failed test has left open ends here.
  for (const client of clients.splice(0)) client.release(true);
  await database.drop();
});

/** A session with an open transaction. */
async function begin(): Promise<pg.PoolClient> {
  const client = await database.pool.connect();
  clients.push(client);
  await client.query("begin");
  return client;
}

const open = () => recomputeAggregate(revenueOptions(database.pool));
const key = { merchant_id: "m1", day: "2026-03-01" };

test("events committed while a recompute is at work stay marked", async () => {
  const { pool } = database;
  await sell(pool, "a", "m1", 1);
  await settle(open());
  await sell(pool, "b", "m1", 2);
  // The recompute has its snapshot, and waits to write its row.
  const holder = await begin();
  await holder.query("select from revenue where merchant_id = 'm1' for update");
  const pass = open().recomputeMarked();
  await waitForLockWaits(database.pool);
  await sell(pool, "c", "m1", 4);
  await holder.query("commit");
  expect(await pass).toMatchObject({ keys: 1, written: 1 });
  expect(await revenueRows(pool)).toEqual(["m1 2026-03-01 3/2"]);
  expect(await countMarks(pool)).toBe(1);
  await settle(open());
  expect(await revenueRows(pool)).toEqual(["m1 2026-03-01 7/3"]);
});

test("events of an open transaction stay marked, though their key was marked before", async () => {
  const { pool } = database;
  await sell(pool, "a", "m1", 1);
  const writer = await begin();
  await sell(writer, "b", "m1", 2);
  await settle(open());
  expect(await revenueRows(pool)).toEqual(["m1 2026-03-01 1/1"]);
  expect(await countMarks(pool)).toBe(0);
  await writer.query("commit");
  expect(await countMarks(pool)).toBe(1);
  await settle(open());
  expect(await revenueRows(pool)).toEqual(["m1 2026-03-01 3/2"]);
});

test("a recompute that waited for its key sees what the one before it saw", async () => {
  const { pool } = database;
  await sell(pool, "a", "m1", 1);
  await settle(open());
  // Stands for another process' recompute, which holds the key.
  const other = await begin();
  await other.query("select from idempotency_aggregate_keys for update");
  const late = open().recompute([key]);
  await waitForLockWaits(database.pool);
  await sell(pool, "b", "m1", 2);
  await other.query("update revenue set amount = 3, events = 2");
  await other.query("delete from idempotency_dirty_keys");
  await other.query("commit");
  await late;
  expect(await revenueRows(pool)).toEqual(["m1 2026-03-01 3/2"]);
});

test("an event that two writers move at once is counted once, wherever a recompute falls", async () => {
  const { pool } = database;
  const first = await begin();
  const second = await begin();
  await sell(first, "a", "m1", 10);
  // Saw no row "a" when it began, and finds m1's when it may go on.
  const moved = sell(second, "a", "m2", 10);
  await waitForLockWaits(database.pool);
  await first.query("commit");
  await moved;
  await settle(open());
  expect(await revenueRows(pool)).toEqual(["m1 2026-03-01 10/1"]);
  await second.query("commit");
  await settle(open());
  expect(await revenueRows(pool)).toEqual(["m2 2026-03-01 10/1"]);
});

test("workers share the keys, and none waits for another", async () => {
  const { pool } = database;
  for (const merchant of ["m1", "m2", "m3"]) await sell(pool, merchant, merchant, 1);
  await settle(open());
  for (const merchant of ["m1", "m2", "m3"]) await sell(pool, `${merchant}b`, merchant, 1);
  const other = await begin();
  await other.query(`select from idempotency_aggregate_keys where key->>0 = 'm2' for update`);
  expect(await open().recomputeMarked()).toMatchObject({ keys: 2 });
  expect(await open().recomputeMarked()).toMatchObject({ keys: 0, hasMore: false });
  expect(await open().marked()).toEqual([{ merchant_id: "m2", day: "2026-03-01" }]);
  await other.query("rollback");
  await settle(open());
  expect(await revenueRows(pool)).toEqual(await trueRows(pool));
});

test("a zone changes when those who read the old one have committed", async () => {
  const { pool } = database;
  const writer = await begin();
  await sell(writer, "a", "m1", 1, "2026-03-01T22:00:00Z");
  const change = open().changeTimeZone({ merchant_id: "m1" }, (tx) =>
    tx.query("insert into merchants values ('m1', 'Asia/Tokyo')"),
  );
  await waitForLockWaits(database.pool);
  await writer.query("commit");
  await change;
  await settle(open());
  expect(await revenueRows(pool)).toEqual(["m1 2026-03-02 1/1"]);
});

test("a recompute whose process dies leaves its marks", async () => {
  const { pool } = database;
  await sell(pool, "a", "m1", 1);
  await settle(open());
  await sell(pool, "b", "m1", 2);
  const holder = await begin();
  await holder.query("select from revenue for update");
  const refused = open()
    .recomputeMarked()
    .then(
      () => "computed",
      () => "refused",
    );
  await waitForLockWaits(database.pool);
  await pool.query(
    "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'",
  );
  expect(await refused).toBe("refused");
  await holder.query("commit");
  expect(await revenueRows(pool)).toEqual(["m1 2026-03-01 1/1"]);
  await settle(open());
  expect(await revenueRows(pool)).toEqual(["m1 2026-03-01 3/2"]);
});

test("writers that overwrite and move events, and three workers: nothing is lost", async () => {
  const { pool } = database;
  let seed = 42;
  const next = (below: number): number => {
    seed = (Math.imul(seed, 1_664_525) + 1_013_904_223) >>> 0;
    return seed % below;
  };
  const workers = Array.from({ length: 3 }, () =>
    aggregateWorker({ aggregates: [open()], pollMs: 1, maxShare: 1 }),
  );
  for (const worker of workers) worker.start();
  const write = async (): Promise<void> => {
    for (let round = 0; round < 60; round += 1) {
      // Sorted, so that two batches with the same ids do not deadlock; a sink sees to that.
      const ids = [...new Set(Array.from({ length: 20 }, () => next(200)))].sort((a, b) => a - b);
      await pool.query(
        `insert into sales
         select 'e' || id, 'm' || merchant, amount, timestamptz '2026-03-01' + hours * interval '1 hour'
         from unnest($1::int[], $2::int[], $3::int[], $4::int[]) as t(id, merchant, amount, hours)
         on conflict (event_id) do update
         set merchant_id = excluded.merchant_id, amount = excluded.amount, occurred_at = excluded.occurred_at`,
        [ids, ids.map(() => next(5)), ids.map(() => next(1_000)), ids.map(() => next(72))],
      );
    }
  };
  await Promise.all([write(), write(), write()]);
  await Promise.all(workers.map((worker) => worker.stop()));
  await aggregateWorker({ aggregates: [open()] }).runOnce();
  expect(await countMarks(pool)).toBe(0);
  expect(await revenueRows(pool)).toEqual(await trueRows(pool));
});
