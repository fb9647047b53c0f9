import { randomUUID } from "node:crypto";

import type pg from "pg";

import {
  outboxStats,
  reapOutbox,
  requeueMessages,
  setAsideMessages,
  skipMessage,
} from "../../src/outbox.js";
import {
  insertOutbox,
  openOutbox,
  outboxEventId,
  outboxMessage,
  type ClaimedMessage,
  type Outbox,
} from "../../src/stores/outbox.js";
import { statementsFor } from "../../src/stores/sql-text.js";
import { waitFor } from "../support/wait-for.js";
import { advanceClock, useMigratedDatabase } from "./open-stores.js";

const statements = statementsFor("public");
const leaseMs = 60_000;
let outbox: Outbox;

// Before the database's own hook, which looks for connections that were left open.
afterAll(() => outbox.close());
const database = useMigratedDatabase();

beforeAll(() => {
  outbox = openOutbox({ pool: database.pool, schema: "public", timeoutMs: 5_000, prepare: true });
});

beforeEach(() => database.pool.query("TRUNCATE idempotency_outbox"));

async function insert(
  client: pg.ClientBase | pg.Pool,
  key: string,
  position: number,
  payload: unknown = { position },
): Promise<string> {
  const message = outboxMessage({ scope: "acme", key }, `send ${position}`, "order.paid", payload);
  const run = (statement: { text: string }, values: readonly unknown[]) =>
    client.query(statement.text, [...values]);
  expect(await insertOutbox(run, statements, message)).toBe("added");
  return message.eventId;
}

/** Several messages of one key in one transaction, like a handler's. */
async function insertTogether(key: string, count: number): Promise<string[]> {
  const client = await database.pool.connect();
  const ids: string[] = [];
  await client.query("BEGIN");
  for (let position = 1; position <= count; position += 1)
    ids.push(await insert(client, key, position));
  await client.query("COMMIT");
  client.release();
  return ids;
}

async function claimOne(): Promise<ClaimedMessage> {
  const claimed = await outbox.claim(1, leaseMs);
  expect(claimed).toHaveLength(1);
  return claimed[0] as ClaimedMessage;
}

const idsOf = (messages: readonly ClaimedMessage[]): string[] =>
  messages.map(({ eventId }) => eventId);

async function rowOf(eventId: string): Promise<Record<string, unknown>> {
  const { rows } = await database.pool.query(
    "SELECT state, attempts, last_error, next_attempt_at IS NULL AS waits FROM idempotency_outbox WHERE event_id = $1",
    [eventId],
  );
  return rows[0] as Record<string, unknown>;
}

describe("the id of an event", () => {
  test("is what it was in the first version", () => {
    expect(outboxEventId({ scope: "acme", key: "k-1" }, "send 1")).toBe(
      "evt_CGmw-8DaWzsU-9tmg09973lvMwPN4temAE4f5FAwxqY",
    );
  });

  test("differs where scope, key or name do, however they are cut", () => {
    const ids = [
      outboxEventId({ scope: "ab", key: "c" }, "d"),
      outboxEventId({ scope: "a", key: "bc" }, "d"),
      outboxEventId({ scope: "a", key: "b" }, "cd"),
      outboxEventId({ scope: "a", key: "b" }, "c"),
    ];
    expect(new Set(ids).size).toBe(4);
  });
});

describe("what may be sent", () => {
  const ref = { scope: "acme", key: "k" };
  test.each([
    ["", {}],
    ["with space", {}],
    ["t".repeat(256), {}],
    ["ok", undefined],
    ["ok", 10n],
    ["ok", () => 1],
    ["ok", "x".repeat(256 * 1024)],
  ])("topic %j is refused or its payload", (topic, payload) => {
    expect(() => outboxMessage(ref, "send 1", topic, payload)).toThrow(
      expect.objectContaining({ code: "message_invalid" }),
    );
  });

  test("the largest payload is stored and comes back as the very text", async () => {
    const text = "ä".repeat(128 * 1024 - 1);
    await insert(database.pool, "large", 1, text);
    const { payload } = await claimOne();
    expect(payload).toBe(JSON.stringify(text));
    expect(Buffer.byteLength(payload)).toBe(256 * 1024);
  });

  test("NUL, lone surrogates and the order of members survive", async () => {
    await insert(database.pool, "odd", 1, { z: "\0", a: "\ud800", "10": 1, "9": 1.5e300 });
    expect((await claimOne()).payload).toBe('{"9":1.5e+300,"10":1,"z":"\\u0000","a":"\\ud800"}');
  });
});

test("an event that is inserted again is there once, in its first place", async () => {
  const eventId = await insert(database.pool, "twice", 1);
  const again = outboxMessage({ scope: "acme", key: "twice" }, "send 1", "other", {});
  const run = (statement: { text: string }, values: readonly unknown[]) =>
    database.pool.query(statement.text, [...values]);
  expect(again.eventId).toBe(eventId);
  expect(await insertOutbox(run, statements, again)).toBe("exists");
  expect(idsOf(await outbox.claim(10, leaseMs))).toEqual([eventId]);
});

describe("claiming", () => {
  test("takes the first message of each key, and the next one when it is delivered", async () => {
    const [a1, a2, a3] = await insertTogether("a", 3);
    const [b1] = await insertTogether("b", 1);
    const first = await outbox.claim(10, leaseMs);
    expect(new Set(idsOf(first))).toEqual(new Set([a1, b1]));
    expect(await outbox.claim(10, leaseMs)).toEqual([]);
    const head = first.find(({ eventId }) => eventId === a1) as ClaimedMessage;
    expect(await outbox.delivered(head)).toBe("ok");
    const second = await claimOne();
    expect(second.eventId).toBe(a2);
    expect(await outbox.claim(10, leaseMs)).toEqual([]);
    await outbox.delivered(second);
    expect((await claimOne()).eventId).toBe(a3);
  });

  test("keeps the order of messages that came in separate transactions", async () => {
    const first = await insert(database.pool, "apart", 1);
    const second = await insert(database.pool, "apart", 2);
    const head = await claimOne();
    expect(head.eventId).toBe(first);
    const third = await insert(database.pool, "apart", 3);
    expect(await outbox.claim(10, leaseMs)).toEqual([]);
    // Failing makes the later ones wait, and success wakes them one after another.
    await outbox.failed(head, "no", 0);
    const again = await claimOne();
    expect(again.eventId).toBe(first);
    await outbox.delivered(again);
    const next = await claimOne();
    expect(next.eventId).toBe(second);
    await outbox.delivered(next);
    expect((await claimOne()).eventId).toBe(third);
  });

  test("finds a message that was inserted while its predecessor was being delivered", async () => {
    await insert(database.pool, "race", 1);
    const head = await claimOne();
    const client = await database.pool.connect();
    await client.query("BEGIN");
    const later = await insert(client, "race", 2);
    // The one who finishes the head cannot see the later message.
    expect(await outbox.delivered(head)).toBe("ok");
    await client.query("COMMIT");
    client.release();
    expect((await claimOne()).eventId).toBe(later);
  });

  test("finds messages that stand behind a savepoint which was rolled back", async () => {
    const client = await database.pool.connect();
    await client.query("BEGIN; SAVEPOINT s");
    const first = await insert(client, "savepoint", 1);
    await client.query("RELEASE s; SAVEPOINT t");
    await insert(client, "savepoint", 2);
    await client.query("ROLLBACK TO t");
    const last = await insert(client, "savepoint", 3);
    await client.query("COMMIT");
    client.release();
    const head = await claimOne();
    expect(head.eventId).toBe(first);
    await outbox.delivered(head);
    expect((await claimOne()).eventId).toBe(last);
  });

  test("gives no message to two of many claimers at once, and no key to two", async () => {
    for (let key = 0; key < 40; key += 1) await insertTogether(`many-${key}`, 3);
    const rounds = await Promise.all(Array.from({ length: 20 }, () => outbox.claim(5, leaseMs)));
    const claimed = rounds.flat();
    expect(claimed).toHaveLength(40);
    expect(new Set(claimed.map(({ key }) => key)).size).toBe(40);
  });

  test("skips rows that another transaction holds", async () => {
    const held = await insert(database.pool, "held", 1);
    const free = await insert(database.pool, "free", 1);
    const client = await database.pool.connect();
    await client.query("BEGIN");
    await client.query("SELECT 1 FROM idempotency_outbox WHERE event_id = $1 FOR UPDATE", [held]);
    expect(idsOf(await outbox.claim(10, leaseMs))).toEqual([free]);
    await client.query("ROLLBACK");
    client.release();
    expect(idsOf(await outbox.claim(10, leaseMs))).toEqual([held]);
  });
});

test("writers of one key take turns, so that none can slip a message in before one that has left", async () => {
  const client = await database.pool.connect();
  await client.query("BEGIN");
  const first = await insert(client, "turns", 1);
  const second = insert(database.pool, "turns", 2);
  await waitFor(
    async () => {
      const { rowCount } = await database.pool.query(
        "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'advisory'",
      );
      return rowCount === 1;
    },
    { what: "the second writer to wait" },
  );
  // A writer of another key does not.
  const other = await insert(database.pool, "turns-other", 1);
  expect(idsOf(await outbox.claim(10, leaseMs))).toEqual([other]);
  await client.query("COMMIT");
  client.release();
  await second;
  expect((await claimOne()).eventId).toBe(first);
  expect(await outbox.claim(10, leaseMs)).toEqual([]);
});

describe("a lease that is over", () => {
  test("gives the message to the next claimer and refuses every late write of the first", async () => {
    const eventId = await insert(database.pool, "late", 1);
    const first = await claimOne();
    await advanceClock(database.pool, leaseMs - 1_000);
    expect(await outbox.claim(10, leaseMs)).toEqual([]);
    await advanceClock(database.pool, 1_001);
    const second = await claimOne();
    expect(second.attempt).toBe(2);
    expect(Number(second.token)).toBeGreaterThan(Number(first.token));
    expect(await outbox.delivered(first)).toBe("lost");
    expect(await outbox.failed(first, "late", undefined)).toBe("lost");
    expect(await outbox.giveBack(first)).toBe("lost");
    expect(await rowOf(eventId)).toMatchObject({ state: "pending", attempts: 2 });
    expect(await outbox.delivered(second)).toBe("ok");
    expect(await outbox.delivered(first)).toBe("lost");
    expect(await outbox.failed(second, "late", 0)).toBe("lost");
  });

  test("does not matter while nobody has taken over", async () => {
    await insert(database.pool, "late-alone", 1);
    const message = await claimOne();
    await advanceClock(database.pool, leaseMs * 2);
    expect(await outbox.delivered(message)).toBe("ok");
  });
});

test("noting a delivery twice answers ok twice, since the first reply may have been lost", async () => {
  await insert(database.pool, "noted", 1);
  const message = await claimOne();
  expect(await outbox.delivered(message)).toBe("ok");
  expect(await outbox.delivered(message)).toBe("ok");
});

test("a claim given back costs no attempt, and giving back twice takes none away", async () => {
  const eventId = await insert(database.pool, "back", 1);
  const message = await claimOne();
  expect(await outbox.giveBack(message)).toBe("ok");
  expect(await outbox.giveBack(message)).toBe("lost");
  expect(await rowOf(eventId)).toMatchObject({ state: "pending", attempts: 0 });
  expect((await claimOne()).attempt).toBe(1);
});

describe("a message that was set aside", () => {
  async function setAside(key: string): Promise<string[]> {
    const ids = await insertTogether(key, 2);
    const third = await insert(database.pool, key, 3);
    expect(await outbox.failed(await claimOne(), "the endpoint answered 500", undefined)).toBe(
      "ok",
    );
    return [...ids, third];
  }

  test("holds up the later ones of its key, and is listed", async () => {
    const [first, second, third] = await setAside("stuck");
    expect(await outbox.claim(10, leaseMs)).toEqual([]);
    // Nobody walks over what waits: it is not in the index of due messages.
    expect(await rowOf(second as string)).toMatchObject({ state: "pending", waits: true });
    expect(await rowOf(third as string)).toMatchObject({ state: "pending", waits: true });
    const listed = await setAsideMessages({ pool: database.pool });
    expect(listed).toEqual([
      {
        eventId: first,
        scope: "acme",
        key: "stuck",
        topic: "order.paid",
        attempts: 1,
        lastError: "the endpoint answered 500",
        createdAt: expect.any(Date),
      },
    ]);
    expect(await outboxStats({ pool: database.pool })).toEqual({
      pending: 2,
      inFlight: 0,
      retrying: 0,
      waiting: 2,
      setAside: 1,
      oldestMs: expect.any(Number),
    });
  });

  test("goes first again when it is requeued, with all its attempts", async () => {
    const [first, second] = await setAside("requeued");
    const named = { pool: database.pool, eventIds: [second as string] };
    expect(await requeueMessages(named)).toBe(0);
    expect(await requeueMessages({ pool: database.pool })).toBe(1);
    const again = await claimOne();
    expect(again).toMatchObject({ eventId: first, attempt: 1 });
    await outbox.delivered(again);
    expect((await claimOne()).eventId).toBe(second);
  });

  test("lets the next one through when it is skipped, and says why for ever", async () => {
    const [first, second, third] = await setAside("skipped");
    const skip = { pool: database.pool, eventId: first as string, why: "sent by hand" };
    expect(await skipMessage({ ...skip, eventId: second as string })).toBe("refused");
    expect(await skipMessage(skip)).toBe("ok");
    expect(await skipMessage(skip)).toBe("refused");
    expect(await rowOf(first as string)).toMatchObject({
      state: "skipped",
      last_error: "skipped: sent by hand; the endpoint answered 500",
    });
    const next = await claimOne();
    expect(next.eventId).toBe(second);
    await outbox.delivered(next);
    expect((await claimOne()).eventId).toBe(third);
  });
});

test("reaping removes finished messages of the past, and never more than its bound", async () => {
  for (let key = 0; key < 7; key += 1) await insert(database.pool, `old-${key}`, 1);
  for (const message of await outbox.claim(6, leaseMs)) await outbox.delivered(message);
  await advanceClock(database.pool, 1_000);
  const reap = { pool: database.pool, limit: 4 };
  expect(await reapOutbox(reap)).toBe(0);
  expect(await reapOutbox({ ...reap, keepDeliveredMs: 500 })).toBe(4);
  expect(await reapOutbox({ ...reap, keepDeliveredMs: 500 })).toBe(2);
  expect(await reapOutbox({ ...reap, keepDeliveredMs: 500 })).toBe(0);
  await advanceClock(database.pool, 365 * 86_400_000);
  expect(await reapOutbox(reap)).toBe(0);
  expect(await outboxStats({ pool: database.pool })).toMatchObject({ pending: 1 });
});

/** What the claim does to find three messages, by the database's own account. */
async function explainClaim(): Promise<{ plan: string; buffers: number }> {
  const text = statements["outbox-claim"].text.replace("$1", "3").replaceAll("$2", "60000");
  const client = await database.pool.connect();
  await client.query(`BEGIN; ${statements["outbox-plan"].text}`);
  const { rows } = await client.query<{ "QUERY PLAN": string }>(
    `EXPLAIN (ANALYZE, BUFFERS, COSTS OFF, TIMING OFF, SUMMARY OFF) ${text}`,
  );
  await client.query("ROLLBACK");
  client.release();
  const plan = rows.map((row) => row["QUERY PLAN"]).join("\n");
  return { plan, buffers: Number(/Buffers: shared hit=(\d+)/.exec(plan)?.[1]) };
}

describe("looking for due messages", () => {
  /** A quarter due, a quarter due later, half of them delivered; `waiting` of these are behind another message. */
  async function fill(due: string): Promise<void> {
    await database.pool.query(
      `INSERT INTO idempotency_outbox
         (event_id, scope, key, topic, payload, state, created_at, next_attempt_at, finished_at)
       SELECT 'evt_' || lpad(n::text, 43, '0'), 'acme', 'bulk-' || n, 'order.paid', '{}',
         CASE WHEN n % 4 > 1 THEN 'delivered' ELSE 'pending' END, now(),
         CASE n % 4 WHEN 0 THEN now() + interval '10 years' WHEN 1 THEN ${due} END,
         CASE WHEN n % 4 > 1 THEN now() END
       FROM generate_series(1, 60000) n`,
    );
  }

  test("reads no delivered, waiting or postponed one", async () => {
    await fill("NULL");
    for (let key = 0; key < 5; key += 1) await insert(database.pool, `due-${key}`, 1);
    const { plan, buffers } = await explainClaim();
    expect(plan).toContain("Index Scan using idempotency_outbox_due");
    expect(buffers).toBeLessThan(150);
  });

  test.each(["with", "without"])("takes no longer for a backlog, %s statistics", async (which) => {
    await fill("now()");
    if (which === "with") await database.pool.query("ANALYZE idempotency_outbox");
    const { plan, buffers } = await explainClaim();
    expect(plan).not.toContain("Sort");
    expect(buffers).toBeLessThan(150);
  });
});

test("messages of another schema are other messages", async () => {
  const schema = `s_${randomUUID().slice(0, 8)}`;
  const { migrate } = await import("../../src/stores/migrate.js");
  await migrate({ pool: database.pool, schema });
  const other = openOutbox({ pool: database.pool, schema, timeoutMs: 5_000, prepare: true });
  await insert(database.pool, "here", 1);
  expect(await other.claim(10, leaseMs)).toEqual([]);
  await other.close();
});
