/**
 * The story: an application had pg read timestamptz as text (`pg.types.setTypeParser(1184, (text) => text)`), as many do with that
 * type, with int8 or with JSON. Every claim of a key that was there then failed with `row.now.getTime is not a function`, and
 * its route answered 503. A DateStyle, TimeZone or bytea_output of the role or the database did the same or worse: times were
 * read as others, and bodies as other bytes.
 *
 * Statements of the store now answer in a form that neither decides, and their values are read by our own parsers. What a
 * handler asks of its `tx` goes by the application's, as everywhere else in its code.
 */
import { randomUUID } from "node:crypto";

import pg from "pg";

import type { Claim, ClaimRequest, KeyRef } from "../../src/core/record.js";
import { examinePooler, examinePostgres, inspect, status } from "../../src/ops.js";
import {
  outboxStats,
  reapOutbox,
  requeueMessages,
  setAsideMessages,
  skipMessage,
} from "../../src/outbox.js";
import { outboxMessage } from "../../src/core/outbox-message.js";
import { openOutbox } from "../../src/stores/outbox.js";
import {
  assertSchema,
  type CacheableStore,
  migrate,
  postgresStore,
} from "../../src/stores/postgres.js";
import { storeContract } from "../../src/testing.js";
import { foreignWays, useForeignTypes, useless } from "../stores/foreign-types.js";
import {
  advanceClock,
  claimed,
  created,
  newRef,
  newRequest,
  openPostgres,
  openTiered,
  windows,
} from "../stores/open-stores.js";
import { waitFor } from "../support/wait-for.js";

const limits = { timeoutMs: 10_000 };
const settler = { by: "ada", why: "asked the provider" };
/** Every byte, and so many that Postgres keeps them outside of the row. */
const body = Buffer.from(Array.from({ length: 100_000 }, (_, index) => index % 256));
const response = { ...created, body };

describe.each(foreignWays)("with %s, the store's contract", (way) => {
  const foreign = useForeignTypes(way);
  storeContract({ test, open: () => openPostgres(foreign.pool) });
});

describe.each(foreignWays)("with %s and Redis in front, the store's contract", (way) => {
  const foreign = useForeignTypes(way);
  storeContract({ test, open: () => openTiered(foreign.pool) });
});

describe.each(foreignWays)("with %s", (way) => {
  const foreign = useForeignTypes(way, () => store.close());
  let store: CacheableStore;
  let ref: KeyRef;
  /** What a statement of the handler itself answers. */
  const one = way === "own parsers in pg" ? useless : 1;
  beforeAll(async () => {
    store = postgresStore({ pool: foreign.pool });
    await foreign.plain.query("CREATE TABLE orders (id text PRIMARY KEY)");
  });
  beforeEach(() => {
    ref = newRef();
  });

  const claim = async (given: Partial<ClaimRequest> = {}): Promise<Claim> =>
    claimed(store.claim(newRequest(ref, given)));
  const askOne = async (tx: unknown): Promise<unknown> => {
    const { rows } = await (tx as pg.PoolClient).query<{ one: unknown }>("SELECT 1 AS one");
    return rows[0]?.one;
  };

  test("a response is replayed byte for byte, with times to the millisecond", async () => {
    await store.complete(await claim(), { ...windows, response });
    // In the middle of a millisecond, and in the months whose days could be other months.
    await foreign.plain.query(
      `UPDATE idempotency_keys SET replay_until = '2031-02-03 04:05:06.789999+00',
         dedupe_until = '2031-12-11 10:09:08.000001+00' WHERE scope = $1`,
      [ref.scope],
    );
    const before = Date.now();
    const answer = await store.claim(newRequest(ref));
    if (answer.kind !== "exists") throw new Error(answer.kind);
    expect(Math.abs(answer.nowMs - before)).toBeLessThan(60_000);
    expect(answer.record).toEqual({
      ...ref,
      state: "completed",
      claimId: answer.record.claimId,
      token: answer.record.token,
      attempt: 1,
      guarantee: "at_most_once",
      fingerprint: "v1::one",
      fieldHashes: '{"body.amount":"aa"}',
      method: "POST",
      path: "/charges",
      requestId: "req_1",
      leaseUntilMs: undefined,
      nextAttemptMs: undefined,
      notStored: false,
      response,
      replayUntilMs: Date.UTC(2031, 1, 3, 4, 5, 6, 789),
      dedupeUntilMs: Date.UTC(2031, 11, 11, 10, 9, 8),
      steps: undefined,
      lastError: undefined,
    });
    expect(await store.find(ref)).toMatchObject({ record: answer.record });
  });

  test("the same on a client that takes no write of several messages", async () => {
    const config = { connectionString: foreign.url, pipeline: true };
    const pool = new pg.Pool(config);
    const pipelining = postgresStore({ pool });
    try {
      const held = await claimed(pipelining.claim(newRequest(ref)));
      await pipelining.complete(held, { ...windows, response });
      const [found, again] = [await pipelining.find(ref), await store.find(ref)];
      expect(found?.record.response).toEqual(response);
      expect(found?.record).toEqual(again?.record);
    } finally {
      await pipelining.close();
      await pool.end();
    }
  });

  test("migrations, the check of the schema and the epoch", async () => {
    expect(await migrate({ pool: foreign.pool })).toEqual([]);
    await assertSchema({ pool: foreign.pool });
    await store.find(ref);
    const [row] = (await foreign.rowsOf("SELECT epoch FROM idempotency_meta")) as [
      { epoch: string },
    ];
    expect(store.epoch()?.slice(0, 37)).toBe(`${row.epoch}.`);
  });

  test("a waiter is told once that its key has ended", async () => {
    const held = await claim();
    let hints = 0;
    const watch = store.watch?.(ref, () => (hints += 1));
    const locks = `SELECT FROM pg_locks WHERE locktype = 'advisory' AND mode = 'ShareLock' AND granted`;
    await waitFor(async () => (await foreign.rowsOf(locks)).length > 0);
    await store.complete(held, { ...windows, response: created });
    await waitFor(() => hints > 0);
    watch?.stop();
    expect(hints).toBe(1);
  });

  test("a transaction route claims, refuses, takes over, completes and is settled", async () => {
    const request = newRequest(ref, { guarantee: "transaction" });
    const first = await store.transactions?.claim(request, limits);
    if (first?.kind !== "claimed") throw new Error(String(first?.kind));
    expect(await askOne(first.open.tx)).toBe(one);
    const done = await first.open.complete(first.claim, { ...windows, response });
    if (done.kind !== "committed") throw new Error(done.kind);
    const again = await store.transactions?.claim(
      newRequest(ref, { guarantee: "transaction" }),
      limits,
    );
    if (again?.kind !== "exists") throw new Error(String(again?.kind));
    expect(again.record).toMatchObject({ state: "completed", response, claimId: request.claimId });
    expect(again.record.replayUntilMs).toBe(done.replayUntilMs);
    expect(await store.transactions?.settle(first.claim, windows)).toMatchObject({
      record: again.record,
    });

    await advanceClock(foreign.pool, windows.dedupeWindowMs + 1);
    const later = newRequest(ref, { guarantee: "transaction" });
    const taken = await store.transactions?.takeOver(later, again.record, limits);
    if (taken?.kind !== "claimed") throw new Error(String(taken?.kind));
    expect(taken.claim).toMatchObject({ attempt: 1, claimId: later.claimId });
    expect(taken.claim.token).toBeGreaterThan(first.claim.token);
    await taken.open.rollback();
  });

  test("steps are saved, loaded, parked, due again and taken over with their request", async () => {
    const { steps } = store;
    if (steps === undefined) throw new Error("the store has no steps");
    const request = { amount: 12.5, names: ["ä", null] };
    const given = { handler: ref.scope, request: JSON.stringify(request) };
    const held = await claim({ guarantee: "steps", steps: given });
    const step = (position: number, kind: "transaction" | "call" | "send") =>
      ({ position, name: `step-${position}`, kind }) as const;
    let seen: unknown;
    const write = async (tx: unknown): Promise<string> => {
      seen = await askOne(tx);
      return '{"id":7,"big":[1.5,true]}';
    };
    expect(await steps.transaction(held, step(0, "transaction"), limits, write)).toBe("committed");
    expect(seen).toBe(one);
    expect(await steps.intend(held, step(1, "call"))).toBe("ok");
    expect(await steps.save(held, step(2, "call"), "null")).toBe("ok");
    const message = outboxMessage(ref, "send 3", "order.paid", { a: 1 });
    expect(await steps.send(held, step(3, "send"), message)).toBe("ok");
    expect(await steps.load(held)).toEqual([
      { ...step(0, "transaction"), state: "done", result: { id: 7, big: [1.5, true] } },
      { ...step(1, "call"), state: "intended", result: null },
      { ...step(2, "call"), state: "done", result: null },
      { ...step(3, "send"), state: "done", result: { eventId: message.eventId } },
    ]);
    expect(await steps.park(held, "the provider is away", 0)).toBe("ok");
    const claimIds = [randomUUID(), randomUUID()] as const;
    const due = await steps.claimDue([ref.scope, "other"], claimIds, 60_000);
    expect(due).toEqual([
      expect.objectContaining({
        ...ref,
        state: "running",
        claimId: claimIds[0],
        attempt: 2,
        lastError: "the provider is away",
        steps: { handler: ref.scope, request },
      }),
    ]);
    const left = (due[0]?.leaseUntilMs ?? 0) - ((await store.find(ref))?.nowMs ?? 0);
    expect(left).toBeGreaterThan(0);
    expect(left).toBeLessThanOrEqual(60_000);
  });

  test("operators see a key as it is, and settle it", async () => {
    const place = { pool: foreign.pool };
    await foreign.plain.query("TRUNCATE idempotency_keys CASCADE");
    await claim();
    await advanceClock(foreign.pool, 90_000);
    const seen = await inspect(place, ref);
    expect(seen).toMatchObject({ standing: "unknown", claim: { attempt: 1 }, failures: 0 });
    expect(seen?.leaseLeftMs).toBeLessThanOrEqual(-30_000);
    expect(seen?.leaseLeftMs).toBeGreaterThan(-90_000);
    const counts = await status(place);
    expect(counts).toMatchObject({
      keys: [{ state: "running", guarantee: "at_most_once", keys: 1 }],
      abandoned: 1,
      unknown: 1,
      reapable: 0,
      waiting: [{ ...ref, standing: "unknown", createdAt: seen?.createdAt }],
    });
    expect(counts.oldestAbandonedMs).toBeGreaterThanOrEqual(30_000);
    expect(counts.oldestAbandonedMs).toBeLessThan(90_000);

    const observed = await store.find(ref);
    if (observed === undefined) throw new Error("the key is gone");
    const resolved = store.operations?.resolveCompleted(
      observed.record,
      response,
      windows,
      settler,
    );
    expect(await resolved).toBe("ok");
    const after = await inspect(place, ref, { showBody: true });
    expect(after).toMatchObject({
      standing: "replayed",
      response: { status: 201, headers: created.headers, bodyBytes: 100_000, body },
      settlements: [{ outcome: "completed", ...settler }],
    });
    const at = after?.completedAt?.getTime() ?? 0;
    expect(after?.replayUntil?.getTime()).toBe(at + windows.replayWindowMs);
    // One statement asks for the time twice, in an order of its own.
    expect(Math.abs((after?.settlements[0]?.at.getTime() ?? 0) - at)).toBeLessThan(1_000);
    expect(await store.operations?.forget(ref, settler)).toBe("ok");
    expect((await inspect(place, ref))?.standing).toBe("expired");
  });

  test("messages leave the outbox, fail, are set aside and removed", async () => {
    const outbox = openOutbox({ ...limits, pool: foreign.pool, schema: "public", prepare: true });
    const place = { pool: foreign.pool };
    try {
      await foreign.plain.query("TRUNCATE idempotency_outbox");
      const sent = await send(store, ref);
      const [first] = await outbox.claim(1, 60_000);
      const { createdAtMs = 0, claimedAtMs = 0, ...message } = first ?? {};
      expect(message).toEqual({
        ...ref,
        eventId: sent[0],
        topic: "order.paid",
        payload: '{"position":1}',
        token: expect.stringMatching(/^\d+$/),
        attempt: 1,
      });
      expect(claimedAtMs - createdAtMs).toBeGreaterThanOrEqual(0);
      expect(claimedAtMs - createdAtMs).toBeLessThan(60_000);
      if (first === undefined) throw new Error("no message was claimed");
      expect(await outbox.failed(first, "refused", undefined)).toBe("ok");
      expect(await setAsideMessages(place)).toEqual([
        {
          ...ref,
          eventId: sent[0],
          topic: "order.paid",
          attempts: 1,
          lastError: "refused",
          createdAt: new Date(createdAtMs),
        },
      ]);
      expect(await outboxStats(place)).toMatchObject({ pending: 1, waiting: 1, setAside: 1 });
      expect(await requeueMessages({ ...place, eventIds: [sent[0] ?? ""] })).toBe(1);
      const [again] = await outbox.claim(1, 60_000);
      if (again === undefined) throw new Error("no message was claimed");
      expect(await outbox.delivered(again)).toBe("ok");
      const [second] = await outbox.claim(1, 60_000);
      if (second === undefined) throw new Error("no message was claimed");
      expect(await outbox.giveBack(second)).toBe("ok");
      expect(await outbox.delivered(second)).toBe("ok");
      expect(await skipMessage({ ...place, eventId: second.eventId, why: "late" })).toBe("refused");
      expect(await outbox.reap(-1, 1)).toBe(1);
      expect(await reapOutbox({ ...place, keepDeliveredMs: -1 })).toBe(1);
    } finally {
      await outbox.close();
    }
  });

  test("the doctor finds nothing that is not there", async () => {
    const given = { pool: foreign.pool, processes: 1, poolSize: 1, wallMs: () => Date.now() };
    await foreign.plain.query(
      `CREATE OR REPLACE FUNCTION idempotency_now() RETURNS timestamptz LANGUAGE sql VOLATILE AS 'SELECT clock_timestamp()'`,
    );
    const found = [
      ...(await examinePostgres(given)),
      ...(await examinePooler({ pool: foreign.pool, pooler: undefined })),
    ];
    expect(found.filter(({ level }) => level !== "ok").map(({ name }) => name)).toEqual([
      "synchronous replication",
    ]);
  });
});

/** Two messages of the key, by a transaction route. Answers their ids. */
async function send(store: CacheableStore, ref: KeyRef): Promise<(string | undefined)[]> {
  const request = newRequest(ref, { guarantee: "transaction" });
  const opened = await store.transactions?.claim(request, limits);
  if (opened?.kind !== "claimed") throw new Error(String(opened?.kind));
  const messages = [1, 2].map((position) =>
    outboxMessage(ref, `send ${position}`, "order.paid", { position }),
  );
  for (const message of messages) await opened.open.send?.(message);
  await opened.open.complete(opened.claim, { ...windows, response: created });
  return messages.map(({ eventId }) => eventId);
}
