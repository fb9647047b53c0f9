/** The two windows and what removes what is over: by bounded batches, under load, with several at it, and in nobody's way. */
import { randomUUID } from "node:crypto";

import express from "express";
import pg from "pg";
import request from "supertest";

import type { KeyRef } from "../../src/core/record.js";
import { createIdempotency } from "../../src/index.js";
import { migrate, postgresStore } from "../../src/stores/postgres.js";
import { lockHash } from "../../src/stores/rows.js";
import { statementsFor } from "../../src/stores/sql-text.js";
import { advanceClock, created, leaseMs, newRequest, windows } from "../stores/open-stores.js";
import { createDatabase, type Database } from "../support/databases.js";

type Store = ReturnType<typeof postgresStore>;

const statements = statementsFor("public");
const election = lockHash("public", { scope: "reaper", key: "" });
const pastReplayMs = windows.replayWindowMs + 1;
const pastDedupeMs = windows.dedupeWindowMs + 1;

let database: Database;
let impatient: pg.Pool;
let store: Store;
beforeEach(async () => {
  database = await createDatabase({ prepare: (pool) => migrate({ pool }) });
  // Whoever waits for a lock fails instead, so that no wait can hide in a test that takes its time.
  const options = "-c lock_timeout=100";
  impatient = new pg.Pool({ connectionString: database.url, max: 10, options });
  store = postgresStore({ pool: impatient });
});
afterEach(async () => {
  for (const end of held) await end();
  await store.close();
  await impatient.end();
  await database.drop();
});

const ref = (key: string): KeyRef => ({ scope: "acct_1", key });
const numbered = (count: number, word: string): KeyRef[] =>
  Array.from({ length: count }, (_, index) => ref(`${word}-${index}`));

async function complete(refs: readonly KeyRef[]): Promise<void> {
  await Promise.all(
    refs.map(async (where) => {
      const answer = await store.claim(newRequest(where));
      if (answer.kind !== "claimed") throw new Error(answer.kind);
      await store.complete(answer.claim, { ...windows, response: created });
    }),
  );
}

async function states(): Promise<Record<string, number>> {
  const { rows } = await database.pool.query<{ state: string; count: number }>(
    "SELECT state, count(*)::int AS count FROM idempotency_keys GROUP BY state",
  );
  return Object.fromEntries(rows.map((row) => [row.state, row.count]));
}

/** Ends the transactions of a test that failed half way. */
const held = new Set<() => Promise<void>>();

/** Runs reap.sql in a transaction that stays open until `end`. */
async function reapAndHold(
  limit: number,
  who: string | null,
): Promise<{ counts: object; end: () => Promise<void> }> {
  const client = await database.pool.connect();
  await client.query("BEGIN");
  const { rows } = await client.query<object>(statements.reap.text, [limit, who]);
  const end = async (): Promise<void> => {
    held.delete(end);
    await client.query("ROLLBACK");
    client.release();
  };
  held.add(end);
  return { counts: rows[0] as object, end };
}

test("several reapers under load remove each response and each key once, and nothing else", async () => {
  const second = postgresStore({ pool: impatient });
  const third = postgresStore({ pool: impatient });
  const count = 400;
  await complete(numbered(count, "done"));
  await store.claim(newRequest(ref("abandoned")));
  const parked = newRequest(ref("set-aside"), {
    guarantee: "steps",
    steps: { handler: "checkout", request: "{}" },
  });
  const unfinished = await store.claim(parked);
  if (unfinished.kind !== "claimed") throw new Error(unfinished.kind);
  await store.steps?.park(unfinished.claim, "given up", undefined);

  const sweep = async (): Promise<{ forgotten: number; deleted: number; claims: number }> => {
    const sum = { forgotten: 0, deleted: 0, claims: 0 };
    const load = { isOver: false };
    const reaper = async (by: Store, who: "anybody" | "elected"): Promise<void> => {
      // Rows that another reaper holds are skipped, so one empty batch is no proof.
      for (let empty = 0; empty < 3;) {
        const batch = await by.reap(25, who);
        sum.forgotten += batch.forgotten;
        sum.deleted += batch.deleted;
        expect(batch.forgotten + batch.deleted).toBeLessThanOrEqual(25);
        empty = batch.forgotten + batch.deleted === 0 ? empty + 1 : 0;
      }
    };
    const traffic = async (): Promise<void> => {
      while (!load.isOver) {
        const fresh = await store.claim(newRequest(ref(`fresh-${randomUUID()}`)));
        if (fresh.kind !== "claimed") throw new Error(`a fresh key was ${fresh.kind}`);
        await store.release(fresh.claim);
        const old = await second.claim(newRequest(ref(`done-${sum.claims % count}`)));
        if (old.kind === "claimed") await second.release(old.claim);
        sum.claims += 1;
      }
    };
    const clients = [traffic(), traffic()];
    await Promise.all([
      reaper(store, "anybody"),
      reaper(second, "anybody"),
      reaper(third, "elected"),
      reaper(second, "elected"),
    ]);
    load.isOver = true;
    await Promise.all(clients);
    return sum;
  };

  await advanceClock(database.pool, pastReplayMs);
  const first = await sweep();
  expect(first).toMatchObject({ forgotten: count, deleted: 0 });
  expect(first.claims).toBeGreaterThan(0);
  expect(await states()).toEqual({ forgotten: count, running: 1, parked: 1 });
  const bodies = await database.pool.query("SELECT 1 FROM idempotency_keys WHERE body IS NOT NULL");
  expect(bodies.rowCount).toBe(0);

  await advanceClock(database.pool, pastDedupeMs);
  const last = await sweep();
  expect(last).toMatchObject({ forgotten: 0, deleted: count });
  // What nobody finished stays, however long ago it was.
  await advanceClock(database.pool, 10 * 365 * 86_400_000);
  expect(await store.reap(500)).toEqual({ forgotten: 0, deleted: 0 });
  expect(await states()).toEqual({ running: 1, parked: 1 });
  await Promise.all([second.close(), third.close()]);
});

test("no claim waits for a reaper that is in the middle of a batch", async () => {
  await complete(numbered(20, "body"));
  await advanceClock(database.pool, windows.dedupeWindowMs - 60_000);
  await complete(numbered(20, "young"));
  // The first twenty lose their bodies, or, in the second round, go altogether.
  for (const word of ["forgotten", "deleted"] as const) {
    if (word === "deleted") await advanceClock(database.pool, 120_000);
    const reaper = await reapAndHold(15, null);
    expect(reaper.counts).toMatchObject({ [word]: 15 });
    const fresh = await store.claim(newRequest(ref(`fresh-${word}`)));
    expect(fresh.kind).toBe("claimed");
    const answers = await Promise.all(
      numbered(20, "body").map((where) => store.claim(newRequest(where))),
    );
    // Seen as they were before the batch: it has not been committed.
    expect(new Set(answers.map(({ kind }) => kind))).toEqual(new Set(["exists"]));
    for (const answer of answers) {
      if (answer.kind !== "exists") continue;
      const taken = await store.takeOver(newRequest(answer.record), answer.record);
      if (taken.kind === "claimed") await store.release(taken.claim);
    }
    const { rows } = await database.pool.query(
      "SELECT query FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'",
    );
    expect(rows).toEqual([]);
    await reaper.end();
    await database.pool.query("DELETE FROM idempotency_keys WHERE key LIKE 'fresh%'");
  }
});

test("an elected reaper does nothing while another one is elected, and anybody else goes on", async () => {
  await complete(numbered(10, "done"));
  await advanceClock(database.pool, pastReplayMs);
  const elected = await reapAndHold(4, election);
  expect(elected.counts).toMatchObject({ forgotten: 4 });
  expect(await store.reap(100, "elected")).toEqual({ forgotten: 0, deleted: 0 });
  // Without an election: around the rows that the other one holds.
  expect(await store.reap(3)).toEqual({ forgotten: 3, deleted: 0 });
  await elected.end();
  expect(await store.reap(100, "elected")).toEqual({ forgotten: 7, deleted: 0 });
});

test("a key whose response is gone answers key_expired and never runs, reaped or not", async () => {
  let runs = 0;
  // The database's clock is moved here, which a process that remembers an answer does not see.
  const idempotent = createIdempotency({
    store,
    scope: "global",
    workers: false,
    nearCache: false,
    ...windows,
  });
  const app = express().use(express.json());
  app.post("/orders", idempotent(), (_req, res) => void res.status(201).json({ run: (runs += 1) }));
  const key = `order-${randomUUID()}`;
  const post = () => request(app).post("/orders").set("Idempotency-Key", key).send({ a: 1 });
  await post().expect(201, { run: 1 });

  await advanceClock(database.pool, pastReplayMs);
  const codes = [(await post()).body.code];
  expect(await store.reap(10)).toEqual({ forgotten: 1, deleted: 0 });
  codes.push((await post()).body.code);
  expect([codes, runs]).toEqual([["key_expired", "key_expired"], 1]);

  await advanceClock(database.pool, windows.dedupeWindowMs - windows.replayWindowMs);
  await post().expect(201, { run: 2 });
  // That is a new life of the key, which the reaper leaves alone.
  expect(await store.reap(10)).toEqual({ forgotten: 0, deleted: 0 });
  await post().expect(201, { run: 2 });
  expect(runs).toBe(2);
});

describe("among fifty thousand keys", () => {
  /** What bounds the scan of each index in a plan, and whether it reads the whole table. */
  async function plan(
    text: string,
    values: unknown[],
  ): Promise<{ bounds: Map<string, string>; scans: boolean }> {
    const { rows } = await database.pool.query<{ "QUERY PLAN": unknown }>(
      `EXPLAIN (FORMAT JSON) ${text}`,
      values,
    );
    const found = JSON.stringify(rows[0]?.["QUERY PLAN"]);
    const scans = found.matchAll(/"Index Name":"([^"]+)"[^{}]*?"Index Cond":"((?:[^"\\]|\\.)*)"/g);
    return {
      bounds: new Map([...scans].map(([, name = "", condition = ""]) => [name, condition])),
      scans: /"Node Type":"Seq Scan"[^{}]*"Relation Name":"idempotency_keys"/.test(found),
    };
  }

  /** `due` of them are due by now, for the reaper and for the completer each. */
  async function fill(due: number): Promise<void> {
    await database.pool.query(
      `INSERT INTO idempotency_keys (scope, key, state, guarantee, claim_id, token, fingerprint, field_hashes, method, path,
           request_id, status, head, body, created_at, completed_at, replay_until, dedupe_until, reap_at)
         SELECT 'acct_' || n % 100, 'done-' || n, 'completed', 'at_most_once', gen_random_uuid(), n, 'v1::x', '{}', 'POST', '/',
           'r', 201, '{"headers":[]}', '\\x7b7d', now(), now(), t, t + interval '1 day', t
         FROM generate_series(1, 45000) n,
           LATERAL (SELECT now() + CASE WHEN n <= $1 THEN interval '-1 hour' ELSE interval '1 hour' END AS t) w`,
      [due],
    );
    await database.pool.query(
      `INSERT INTO idempotency_keys (scope, key, state, guarantee, claim_id, token, lease_until, handler, request, fingerprint,
           field_hashes, method, path, request_id, created_at)
         SELECT 'acct_' || n % 100, 'steps-' || n, 'running', 'steps', gen_random_uuid(), n,
           now() + CASE WHEN n <= $1 THEN interval '-1 hour' ELSE interval '1 hour' END, 'checkout', '{}', 'v1::x', '{}', 'POST', '/',
           'r', now()
         FROM generate_series(1, 5000) n`,
      [due],
    );
    await database.pool.query("ANALYZE idempotency_keys");
  }

  test.each([100, 5_000])("with %i due, both look into their partial index", async (due) => {
    await fill(due);
    const reap = await plan(statements.reap.text, [500, election]);
    // Bounded by the time, and not only read in its order: else a quiet table would be walked to its end.
    expect(reap.bounds.get("idempotency_keys_reap")).toMatch(/reap_at <= /);
    expect(reap.scans).toBe(false);
    const claimIds = [randomUUID(), randomUUID(), randomUUID(), randomUUID()];
    const claimDue = await plan(statements["claim-due"].text, [["checkout"], claimIds, leaseMs]);
    expect(claimDue.bounds.get("idempotency_keys_unfinished")).toMatch(/COALESCE.* <= /);
    expect(claimDue.scans).toBe(false);
    // And the statements find what there is.
    expect(await store.reap(500)).toEqual({ forgotten: Math.min(due, 500), deleted: 0 });
    expect(await store.steps?.claimDue(["checkout"], claimIds, leaseMs)).toHaveLength(4);
  });
});
