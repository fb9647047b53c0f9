import { randomBytes } from "node:crypto";

import pg from "pg";

import type { CacheableStore, OpenTransaction } from "../../src/core/ports.js";
import type { Claim, KeyRef } from "../../src/core/record.js";
import { migrate, postgresStore } from "../../src/stores/postgres.js";
import { lockHash } from "../../src/stores/rows.js";
import { waitFor } from "../support/wait-for.js";
import {
  advanceClock,
  claimed,
  created,
  leaseMs,
  newRef,
  newFingerprint,
  newRequest,
  untilSomebodyWaits,
  useMigratedDatabase,
  whileLocked,
  windows,
} from "./open-stores.js";

const database = useMigratedDatabase();
const completion = { response: created, ...windows };
const limits = { timeoutMs: 10_000 };

let store: CacheableStore;
let ref: KeyRef;

beforeEach(() => {
  store = postgresStore({ pool: database.pool });
  ref = newRef();
});
afterEach(() => store.close());

const lockRow = "SELECT FROM idempotency_keys WHERE scope = $1 AND key = $2 FOR UPDATE";

describe("an uncommitted claim", () => {
  test("is felt by plain claims without waiting, also in a batch, and is over with its transaction", async () => {
    const others = Array.from({ length: 10 }, () => newRef());
    const first = await store.transactions?.claim(newRequest(ref), limits);
    if (first?.kind !== "claimed") throw new Error("claimed was expected");
    const [answer, ...rest] = await Promise.all(
      [ref, ...others].map((each) => store.claim(newRequest(each))),
    );
    expect(answer).toEqual({ kind: "locked" });
    expect(rest.map(({ kind }) => kind)).toEqual(others.map(() => "claimed"));
    expect(await store.transactions?.claim(newRequest(ref), limits)).toEqual({ kind: "locked" });
    await first.open.rollback();
    expect(await store.find(ref)).toBeUndefined();
    await claimed(store.claim(newRequest(ref)));
  });

  test("is seen once it is committed", async () => {
    const request = newRequest(ref, { guarantee: "transaction" });
    const first = await store.transactions?.claim(request, limits);
    if (first?.kind !== "claimed") throw new Error("claimed was expected");
    expect((await first.open.complete(first.claim, completion)).kind).toBe("committed");
    const { claimId } = first.claim;
    expect(await store.claim(newRequest(ref))).toMatchObject({
      kind: "exists",
      record: { claimId },
    });
  });

  test("is one of 50, plain and in transactions", async () => {
    const answers = await Promise.all(
      Array.from({ length: 50 }, async (_, index) =>
        index % 5 === 0
          ? store.transactions?.claim(newRequest(ref, { guarantee: "transaction" }), limits)
          : store.claim(newRequest(ref)),
      ),
    );
    const winners = answers.filter((answer) => answer?.kind === "claimed");
    expect(winners).toHaveLength(1);
    const [winner] = winners;
    if (winner !== undefined && "open" in winner) await (winner.open as OpenTransaction).rollback();
  });

  test("of another key with the same hash costs a retry", async () => {
    const hash = lockHash("public", ref);
    await whileLocked(database.pool, "SELECT pg_advisory_xact_lock($1)", [hash], async () => {
      expect(await store.claim(newRequest(ref))).toEqual({ kind: "locked" });
    });
    await claimed(store.claim(newRequest(ref)));
  });

  test("that commits after the snapshot of a claim is read in a new statement", async () => {
    // A gate between the snapshot of claim.sql and its lock: a function of the lock's name that is found before it.
    await database.pool.query(
      `CREATE SCHEMA gate;
       CREATE FUNCTION gate.pg_try_advisory_xact_lock(lock_hash bigint) RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$
       BEGIN
         PERFORM pg_advisory_lock_shared(7), pg_advisory_unlock_shared(7);
         RETURN pg_catalog.pg_try_advisory_xact_lock(lock_hash);
       END $$`,
    );
    const gated = {
      connectionString: database.url,
      options: "-c search_path=gate,pg_catalog,public",
    };
    const pool = new pg.Pool(gated);
    const slow = postgresStore({ pool });
    await slow.find(ref);
    const rival = await store.transactions?.claim(
      newRequest(ref, { fingerprint: newFingerprint("v1::two") }),
      limits,
    );
    if (rival?.kind !== "claimed") throw new Error("claimed was expected");
    const answer = await whileLocked(
      database.pool,
      "SELECT pg_advisory_xact_lock(7)",
      [],
      async () => {
        const asked = slow.claim(newRequest(ref));
        await untilSomebodyWaits(database.pool, "advisory");
        expect((await rival.open.complete(rival.claim, completion)).kind).toBe("committed");
        return { asked };
      },
    );
    expect(await answer.asked).toMatchObject({
      kind: "exists",
      record: { state: "completed", fingerprint: "v1::two" },
    });
    await slow.close();
    await pool.end();
  });
});

describe("batches", () => {
  test("a row that the table refuses fails alone", async () => {
    const fingerprint = {
      text: "v1::one",
      get fieldHashes(): string {
        throw new TypeError("a value that changes while it is read");
      },
    };
    const bad = [
      newRequest({ ...ref, key: "unread" }, { fingerprint }),
      newRequest({ ...ref, key: "k".repeat(256) }),
      newRequest({ scope: "", key: "k" }),
      newRequest({ ...ref, key: "nul" }, { path: "/a\0b" }),
      newRequest({ ...ref, key: "uuid" }, { claimId: "none" }),
    ];
    const good = Array.from({ length: 20 }, (_, index) =>
      newRequest({ ...ref, key: `good-${index}` }),
    );
    const all = [...good.slice(0, 10), ...bad, ...good.slice(10)];
    const outcomes = await Promise.allSettled(all.map((request) => store.claim(request)));
    const failed = all.filter((_, index) => outcomes[index]?.status === "rejected");
    expect(failed).toEqual(bad);

    const claims = outcomes.flatMap((outcome) =>
      outcome.status === "fulfilled" && outcome.value.kind === "claimed"
        ? [outcome.value.claim]
        : [],
    );
    const completions = await Promise.allSettled(
      claims.map((claim, index) =>
        store.complete(claim, {
          ...completion,
          response: { ...created, status: index === 3 ? 99_999 : 200 },
        }),
      ),
    );
    expect(completions.map(({ status }) => status === "rejected")).toEqual(
      claims.map((_, index) => index === 3),
    );
  });

  test("large responses that end together are stored within the time of one statement", async () => {
    const hasty = postgresStore({ pool: database.pool, timeoutMs: 500 });
    const refs = Array.from({ length: 60 }, (_, index) => ({ ...ref, key: `large-${index}` }));
    const claims = await Promise.all(refs.map((each) => claimed(hasty.claim(newRequest(each)))));
    const large = { ...completion, response: { ...created, body: randomBytes(1024 * 1024) } };
    const answers = await Promise.all(claims.map((claim) => hasty.complete(claim, large)));
    expect(new Set(answers.map(({ kind }) => kind))).toEqual(new Set(["ok"]));
    await hasty.close();
  });

  test("10,000 keys in flight are claimed and completed, each with its own answer", async () => {
    const refs = Array.from({ length: 10_000 }, (_, index) => ({ ...ref, key: `k${index}` }));
    const claims = await Promise.all(refs.map((each) => claimed(store.claim(newRequest(each)))));
    expect(claims.map(({ key }) => key)).toEqual(refs.map(({ key }) => key));
    const answers = await Promise.all(claims.map((claim) => store.complete(claim, completion)));
    expect(new Set(answers.map(({ kind }) => kind))).toEqual(new Set(["ok"]));
  });
});

describe("locked rows", () => {
  test("are skipped by heartbeats and counted as alive", async () => {
    const other = newRef();
    const claim = await claimed(store.claim(newRequest(ref)));
    const free = await claimed(store.claim(newRequest(other)));
    const before = await store.find(ref);
    await advanceClock(database.pool, 1_000);
    await whileLocked(database.pool, lockRow, [ref.scope, ref.key], async () => {
      expect(await store.heartbeat([claim, free], leaseMs)).toEqual([]);
    });
    const renewed = (await store.find(other))?.record.leaseUntilMs ?? 0;
    expect((await store.find(ref))?.record.leaseUntilMs).toBe(before?.record.leaseUntilMs);
    expect(renewed).toBeGreaterThan(before?.record.leaseUntilMs ?? Infinity);
  });

  test.each(["complete", "release"] as const)("fail alone in a batch of %s", async (verb) => {
    const refs = Array.from({ length: 50 }, (_, index) => ({ ...ref, key: `k${index}` }));
    const claims = await Promise.all(refs.map((each) => claimed(store.claim(newRequest(each)))));
    const end = (claim: Claim): Promise<unknown> =>
      verb === "complete" ? store.complete(claim, completion) : store.release(claim);
    const [locked, free] = [claims.slice(0, 20), claims.slice(20)];
    const lockRows = "SELECT FROM idempotency_keys WHERE scope = $1 AND key = ANY ($2) FOR UPDATE";
    const keys = locked.map(({ key }) => key);
    await whileLocked(database.pool, lockRows, [ref.scope, keys], async () => {
      const beganMs = performance.now();
      const failed = locked.map((claim) => end(claim).catch(({ code }: { code?: string }) => code));
      await Promise.all(free.map(end));
      // The limit of a statement is five seconds, and that of a batch which waits for a row a quarter of one.
      expect(performance.now() - beganMs).toBeLessThan(4_000);
      expect(await Promise.all(failed)).toEqual(locked.map(() => "55P03"));
    });
    await Promise.all(locked.map(end));
    const found = await Promise.all(refs.map((each) => store.find(each)));
    const state = verb === "complete" ? "completed" : undefined;
    expect(found.map((each) => each?.record.state)).toEqual(refs.map(() => state));
  });

  test("are taken over by nobody", async () => {
    await claimed(store.claim(newRequest(ref)));
    await advanceClock(database.pool, leaseMs + 1_000);
    const observed = await store.find(ref);
    if (observed === undefined) throw new Error("the key exists");
    await whileLocked(database.pool, lockRow, [ref.scope, ref.key], async () => {
      const answer = await store.takeOver(newRequest(ref), observed.record);
      expect(answer).toMatchObject({ kind: "exists", record: { token: observed.record.token } });
    });
    await claimed(store.takeOver(newRequest(ref), observed.record));
  });

  test("are left by the reaper, which takes the others", async () => {
    const refs = [ref, newRef()];
    for (const each of refs)
      await store.complete(await claimed(store.claim(newRequest(each))), completion);
    await advanceClock(database.pool, windows.dedupeWindowMs + 1_000);
    await whileLocked(database.pool, lockRow, [ref.scope, ref.key], async () => {
      while ((await store.reap(100)).deleted > 0);
      expect(
        await Promise.all(refs.map(async (each) => (await store.find(each)) !== undefined)),
      ).toEqual([true, false]);
    });
    while ((await store.reap(100)).deleted > 0);
    expect(await store.find(ref)).toBeUndefined();
  });

  test("running keys stay whatever their age", async () => {
    const claim = await claimed(store.claim(newRequest(ref)));
    await advanceClock(database.pool, windows.dedupeWindowMs * 100);
    while ((await store.reap(100)).deleted > 0);
    expect((await store.find(ref))?.record.state).toBe("running");
    expect((await store.complete(claim, completion)).kind).toBe("ok");
  });
});

describe("the epoch", () => {
  test("is read with the first connection, and is new after `newEpoch`", async () => {
    expect(store.epoch()).toBeUndefined();
    await store.find(ref);
    const before = store.epoch();
    expect(before).toMatch(/^[0-9a-f-]{36}\.\d+\.\d+$/);
    await migrate({ pool: database.pool, newEpoch: true });
    const fresh = postgresStore({ pool: database.pool });
    await fresh.find(ref);
    expect(fresh.epoch()).not.toBe(before);
    await fresh.close();
  });

  test("is unknown once a connection is lost, and known again with the next statement on any", async () => {
    const pool = new pg.Pool({ connectionString: database.url, application_name: "epoch test" });
    pool.on("error", () => {});
    const watched = postgresStore({ pool });
    await Promise.all([watched.reap(1), watched.reap(1)]);
    const { rows } = await database.pool.query<{ pid: number }>(
      "SELECT pid FROM pg_stat_activity WHERE application_name = 'epoch test'",
    );
    expect(rows).toHaveLength(2);
    await database.pool.query("SELECT pg_terminate_backend($1)", [rows[0]?.pid]);
    await waitFor(() => watched.epoch() === undefined);
    await watched.find(ref);
    expect(watched.epoch()).toBeDefined();
    await watched.close();
    await pool.end();
  });
});
