import { Redis } from "ioredis";

import {
  outboxStats,
  outboxWorker,
  redisStreamDestination,
  requeueMessages,
  webhookDestination,
  type Destination,
  type OutboxEvent,
  type OutboxWorker,
  type OutboxWorkerOptions,
} from "../../src/outbox.js";
import { wakeOutbox } from "../../src/stores/outbox.js";
import { advanceClock, useMigratedDatabase } from "../stores/open-stores.js";
import { redisUrl } from "../support/servers.js";
import { waitFor } from "../support/wait-for.js";
import { countStates, messageRow, sendMany, sendMessages, testSecret } from "./outbox-messages.js";
import { startReceiver, type Receiver } from "./receiver.js";

const workers: OutboxWorker[] = [];
let receiver: Receiver;
let events: OutboxEvent[] = [];

afterEach(async () => {
  await Promise.all(workers.splice(0).map((worker) => worker.stop({ graceMs: 0 })));
  await receiver.close();
});
const database = useMigratedDatabase();
beforeEach(async () => {
  await database.pool.query("TRUNCATE idempotency_outbox");
  receiver = await startReceiver();
  events = [];
});

function newWorker(given: Partial<OutboxWorkerOptions> = {}): OutboxWorker {
  const worker = outboxWorker({
    pool: database.pool,
    destination: webhookDestination({ url: receiver.url, secret: testSecret }),
    pollMs: 20,
    hooks: { onEvent: (event) => events.push(event) },
    ...given,
  });
  workers.push(worker);
  return worker;
}

const bodies = (): { key: string; position: number }[] =>
  receiver.received.map(({ body }) => JSON.parse(body) as { key: string; position: number });
const kinds = (): string[] => events.map(({ type }) => type);

test("delivers the messages of one key in their order, and notes it", async () => {
  const ids = await sendMessages(database.pool, "order-1", 5);
  expect(await newWorker().runOnce()).toEqual({ delivered: 5, failed: 0, setAside: 0, lost: 0 });
  expect(receiver.received.map(({ id }) => id)).toEqual(ids);
  expect(await countStates(database.pool)).toEqual({ delivered: 5 });
  expect(events[0]).toEqual({
    type: "delivered",
    topic: "order.paid",
    attempt: 1,
    ageMs: expect.any(Number),
    durationMs: expect.any(Number),
  });
  expect(JSON.stringify(events)).not.toContain("order-1");
});

test("delivers several keys at a time, and no more than its concurrency", async () => {
  await sendMany(database.pool, 8, 1);
  let release: () => void = () => undefined;
  const gate = new Promise<void>((resolve) => (release = resolve));
  receiver.answer = async () => {
    await gate;
    return 200;
  };
  const worker = newWorker({ concurrency: 5 });
  worker.start();
  await waitFor(() => receiver.open === 5, { what: "five deliveries" });
  const { inFlight } = await outboxStats({ pool: database.pool });
  expect(inFlight).toBe(5);
  expect(receiver.received).toHaveLength(5);
  release();
  await waitFor(() => receiver.received.length === 8, { what: "the rest" });
});

test("a slow message of one key holds up no other key", async () => {
  await sendMessages(database.pool, "slow");
  await sendMany(database.pool, 20, 2);
  receiver.answer = ({ body }) => (body.includes("slow") ? new Promise(() => undefined) : 200);
  newWorker({ concurrency: 2 }).start();
  await waitFor(() => kinds().length === 40, { what: "the other keys" });
  expect(await countStates(database.pool)).toEqual({ delivered: 40, pending: 1 });
});

test("keeps the order of each key under three workers and an endpoint that fails", async () => {
  await sendMany(database.pool, 30, 6);
  let calls = 0;
  const openKeys = new Set<string>();
  const overlaps: string[] = [];
  receiver.answer = async ({ body }) => {
    const { key } = JSON.parse(body) as { key: string };
    if (openKeys.has(key)) overlaps.push(key);
    openKeys.add(key);
    await new Promise((resolve) => setImmediate(resolve));
    openKeys.delete(key);
    return (calls += 1) % 3 === 0 ? 500 : 200;
  };
  const retryDelaysMs = Array.from({ length: 100 }, () => 5);
  for (let count = 0; count < 3; count += 1) newWorker({ retryDelaysMs, pollMs: 5 }).start();
  await waitFor(async () => (await countStates(database.pool))["delivered"] === 180, {
    timeoutMs: 25_000,
    what: "180 deliveries",
  });
  expect(overlaps).toEqual([]);
  expect(kinds().filter((kind) => kind === "failed").length).toBeGreaterThan(50);
  const seen = new Map<string, number>();
  for (const { key, position } of bodies()) {
    const last = seen.get(key) ?? 0;
    // The same one again after a failure, or the next one.
    expect([last, last + 1]).toContain(position);
    seen.set(key, position);
  }
  expect(new Set(receiver.received.map(({ id }) => id)).size).toBe(180);
});

test("retries by the schedule of the specification, and then sets the message aside", async () => {
  const [eventId = ""] = await sendMessages(database.pool, "down", 2);
  receiver.answer = () => 500;
  const worker = newWorker();
  const seconds = [5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400];
  for (const [index, pause] of seconds.entries()) {
    expect(await worker.runOnce()).toEqual({ delivered: 0, failed: 1, setAside: 0, lost: 0 });
    const row = await messageRow(database.pool, eventId);
    expect(row).toMatchObject({
      state: "pending",
      attempts: index + 1,
      last_error: "the endpoint answered 500",
    });
    expect(row.due_in_ms).toBeGreaterThan(pause * 1_000 - 2_000);
    expect(row.due_in_ms).toBeLessThanOrEqual(pause * 1_100);
    expect(await worker.runOnce()).toMatchObject({ failed: 0 });
    await advanceClock(database.pool, (row.due_in_ms ?? 0) - 1_000);
    expect(await worker.runOnce()).toMatchObject({ failed: 0 });
    await advanceClock(database.pool, 1_000);
  }
  expect(await worker.runOnce()).toEqual({ delivered: 0, failed: 0, setAside: 1, lost: 0 });
  expect(receiver.received).toHaveLength(10);
  expect(new Set(receiver.received.map(({ id }) => id))).toEqual(new Set([eventId]));
  expect(events.at(-1)).toMatchObject({ type: "set_aside", because: "exhausted", attempt: 10 });
  await advanceClock(database.pool, 90 * 86_400_000);
  expect(await worker.runOnce()).toMatchObject({ delivered: 0, failed: 0, setAside: 0 });
  expect(await outboxStats({ pool: database.pool })).toMatchObject({ setAside: 1, waiting: 1 });

  receiver.answer = () => 200;
  await requeueMessages({ pool: database.pool });
  expect(await worker.runOnce()).toMatchObject({ delivered: 2 });
  expect(bodies().slice(-2)).toEqual([
    { key: "down", position: 1 },
    { key: "down", position: 2 },
  ]);
});

test("sets a message aside whose process went away in every attempt", async () => {
  const [eventId = ""] = await sendMessages(database.pool, "poison");
  await database.pool.query("UPDATE idempotency_outbox SET attempts = 3");
  expect(await newWorker({ retryDelaysMs: [1, 1] }).runOnce()).toMatchObject({ setAside: 1 });
  expect(receiver.received).toEqual([]);
  expect(events).toMatchObject([{ type: "set_aside", because: "abandoned" }]);
  expect((await messageRow(database.pool, eventId)).state).toBe("set_aside");
});

describe("what an endpoint answers", () => {
  test("410 Gone sets the message aside at once", async () => {
    const [eventId = ""] = await sendMessages(database.pool, "gone");
    receiver.answer = () => 410;
    expect(await newWorker().runOnce()).toMatchObject({ setAside: 1 });
    expect(events).toMatchObject([{ type: "set_aside", because: "permanent", attempt: 1 }]);
    expect(await messageRow(database.pool, eventId)).toMatchObject({
      state: "set_aside",
      last_error: "the endpoint answered 410",
    });
  });

  test.each([
    ["429", { status: 429, headers: { "retry-after": "120" } }, 120_000],
    ["503", { status: 503, headers: { "retry-after": "90" } }, 90_000],
    ["503, shorter than the schedule", { status: 503, headers: { "retry-after": "1" } }, 5_000],
    ["503, for ever", { status: 503, headers: { "retry-after": "999999999" } }, 86_400_000],
    ["503, a word", { status: 503, headers: { "retry-after": "soon" } }, 5_000],
    [
      "503, a date",
      {
        status: 503,
        headers: {
          date: "Tue, 05 Mar 2030 10:00:00 GMT",
          "retry-after": "Tue, 05 Mar 2030 10:10:00 GMT",
        },
      },
      600_000,
    ],
  ])("Retry-After of %s is honoured", async (_name, answer, pauseMs) => {
    const [eventId = ""] = await sendMessages(database.pool, "later");
    receiver.answer = () => answer;
    await newWorker().runOnce();
    const { due_in_ms: dueInMs } = await messageRow(database.pool, eventId);
    expect(dueInMs).toBeGreaterThan(pauseMs - 2_000);
    expect(dueInMs).toBeLessThanOrEqual(Math.max(pauseMs, 5_500));
  });

  test("a redirect is a failure and is not followed", async () => {
    const elsewhere = await startReceiver();
    receiver.answer = () => ({ status: 307, headers: { location: elsewhere.url } });
    await sendMessages(database.pool, "moved");
    expect(await newWorker().runOnce()).toMatchObject({ failed: 1 });
    expect(events).toMatchObject([{ error: { message: "the endpoint answered 307" } }]);
    expect(elsewhere.received).toEqual([]);
    await elsewhere.close();
  });

  test("no answer in time is a failure", async () => {
    receiver.answer = () => new Promise(() => undefined);
    await sendMessages(database.pool, "silent");
    const destination = webhookDestination({
      url: receiver.url,
      secret: testSecret,
      timeoutMs: 50,
    });
    expect(await newWorker({ destination }).runOnce()).toMatchObject({ failed: 1 });
    expect(events).toMatchObject([{ error: { message: "no answer within 50 ms" } }]);
  });

  test("an endpoint that is not there is a failure that names the reason", async () => {
    const { url } = receiver;
    await receiver.close();
    await sendMessages(database.pool, "nobody");
    const destination = webhookDestination({ url, secret: testSecret });
    expect(await newWorker({ destination }).runOnce()).toMatchObject({ failed: 1 });
    expect(events).toMatchObject([
      { error: { message: "the endpoint could not be reached (ECONNREFUSED)" } },
    ]);
  });

  test("a success with an endless body is a success", async () => {
    receiver.answer = () => ({ status: 200, body: "x".repeat(1_000_000) });
    await sendMessages(database.pool, "chatty");
    expect(await newWorker().runOnce()).toMatchObject({ delivered: 1 });
  });
});

test("a worker wakes at once after a commit of its process", async () => {
  const worker = newWorker({ pollMs: 3_600_000 });
  worker.start();
  await sendMessages(database.pool, "first");
  wakeOutbox(database.pool, "public");
  await waitFor(() => kinds().length === 1, { what: "the first delivery" });
  await sendMessages(database.pool, "woken");
  wakeOutbox(database.pool, "public");
  await waitFor(() => receiver.received.length === 2, { what: "the delivery" });
  expect(bodies()[1]).toEqual({ key: "woken", position: 1 });
});

describe("stopping", () => {
  test("lets a delivery end and notes it", async () => {
    const [eventId = ""] = await sendMessages(database.pool, "ending");
    let release: () => void = () => undefined;
    receiver.answer = () => new Promise((resolve) => (release = () => resolve(200)));
    const worker = newWorker();
    worker.start();
    await waitFor(() => receiver.open === 1);
    const stopped = worker.stop();
    release();
    await stopped;
    expect((await messageRow(database.pool, eventId)).state).toBe("delivered");
    expect(() => worker.start()).toThrow("stopped");
  });

  test("gives back what does not end in time, without counting the attempt", async () => {
    const [eventId = ""] = await sendMessages(database.pool, "hanging");
    receiver.answer = () => new Promise(() => undefined);
    const worker = newWorker();
    worker.start();
    await waitFor(() => receiver.open === 1);
    await worker.stop({ graceMs: 20 });
    await waitFor(() => receiver.open === 0, { what: "the request to be aborted" });
    expect(await messageRow(database.pool, eventId)).toMatchObject({
      state: "pending",
      attempts: 0,
    });
    receiver.answer = () => 200;
    expect(await newWorker().runOnce()).toMatchObject({ delivered: 1 });
  });

  test("keeps a message away from others while a deaf destination may still be at work", async () => {
    const [eventId = ""] = await sendMessages(database.pool, "deaf");
    let calls = 0;
    const deaf: Destination = {
      deliver: () => {
        calls += 1;
        return new Promise(() => undefined);
      },
    };
    const worker = newWorker({ destination: deaf });
    worker.start();
    await waitFor(() => calls === 1);
    await worker.stop({ graceMs: 20 });
    expect(await messageRow(database.pool, eventId)).toMatchObject({ attempts: 1 });
    expect(await newWorker().runOnce()).toMatchObject({ delivered: 0 });
    await advanceClock(database.pool, 60_000);
    expect(await newWorker().runOnce()).toMatchObject({ delivered: 1 });
  });
});

test("a delivery that outlasts its lease is told to stop, and writes nothing", async () => {
  const [eventId = ""] = await sendMessages(database.pool, "overrun");
  let told = false;
  let calls = 0;
  const deaf: Destination = {
    deliver: (_message, { signal }) => {
      calls += 1;
      signal.addEventListener("abort", () => (told = true));
      return new Promise(() => undefined);
    },
  };
  const worker = newWorker({ destination: deaf, leaseMs: 400, timeoutMs: 100 });
  worker.start();
  await waitFor(() => kinds().includes("overrun"), { what: "the overrun" });
  expect(told).toBe(true);
  await worker.stop({ graceMs: 0 });
  expect(await messageRow(database.pool, eventId)).toMatchObject({
    state: "pending",
    attempts: calls,
  });
});

test("a frozen event loop cannot note a delivery that another worker has taken over", async () => {
  const [eventId = ""] = await sendMessages(database.pool, "frozen");
  let release: () => void = () => undefined;
  receiver.answer = () => new Promise((resolve) => (release = () => resolve(500)));
  const first = newWorker();
  const round = first.runOnce();
  await waitFor(() => receiver.open === 1);
  const answerFirst = release;
  await advanceClock(database.pool, 60_001);
  receiver.answer = () => 200;
  expect(await newWorker().runOnce()).toMatchObject({ delivered: 1 });
  answerFirst();
  expect(await round).toMatchObject({ lost: 1, failed: 0 });
  expect(kinds()).toContain("lost");
  expect(await messageRow(database.pool, eventId)).toMatchObject({
    state: "delivered",
    attempts: 2,
    last_error: null,
  });
});

test("removes what was finished long ago, by itself", async () => {
  await sendMany(database.pool, 20, 1);
  const worker = newWorker({ keepDeliveredMs: 1_000, reapEveryMs: 20 });
  worker.start();
  await waitFor(() => kinds().length === 20);
  await advanceClock(database.pool, 1_000);
  await waitFor(async () => Object.keys(await countStates(database.pool)).length === 0, {
    what: "an empty outbox",
  });
  expect(receiver.received).toHaveLength(20);
});

test("10,000 messages drain", async () => {
  await sendMany(database.pool, 2_500, 4);
  const round = await newWorker({ concurrency: 50 }).runOnce();
  expect(round).toEqual({ delivered: 10_000, failed: 0, setAside: 0, lost: 0 });
  expect(receiver.overlapped).toEqual([]);
  expect(new Set(receiver.received.map(({ id }) => id)).size).toBe(10_000);
  expect(receiver.received).toHaveLength(10_000);
}, 300_000);

describe("a Redis stream", () => {
  const stream = `oncekey-test-outbox-${process.pid}`;
  let client: Redis;
  beforeAll(() => {
    client = new Redis(redisUrl());
  });
  afterAll(async () => {
    await client.del(stream);
    client.disconnect();
  });

  test("gets the event id, the topic and the stored text, in order", async () => {
    const ids = await sendMessages(database.pool, "stream", 3);
    const destination = redisStreamDestination({ client, stream: () => stream });
    expect(await newWorker({ destination }).runOnce()).toMatchObject({ delivered: 3 });
    const entries = await client.xrange(stream, "-", "+");
    expect(entries.map(([, fields]) => fields)).toEqual(
      ids.map((id, index) => [
        "event_id",
        id,
        "topic",
        "order.paid",
        "payload",
        `{"key":"stream","position":${index + 1}}`,
      ]),
    );
  });

  test("keeps about as many entries as it is told", async () => {
    await sendMany(database.pool, 500, 1);
    const destination = redisStreamDestination({ client, stream, maxLength: 100 });
    expect(await newWorker({ destination }).runOnce()).toMatchObject({ delivered: 500 });
    expect(await client.xlen(stream)).toBeLessThan(250);
  });

  test("that is something else is a failure, told without the message", async () => {
    const wrong = `${stream}-wrong`;
    await client.set(wrong, "1");
    const [eventId = ""] = await sendMessages(database.pool, "wrong");
    const destination = redisStreamDestination({ client, stream: wrong });
    expect(await newWorker({ destination }).runOnce()).toMatchObject({ failed: 1 });
    const { last_error: text } = await messageRow(database.pool, eventId);
    expect(text).toMatch(/^Redis: WRONGTYPE/);
    expect(text).not.toContain("position");
    await client.del(wrong);
  });
});

test("options that are wrong are all named at once", () => {
  const options = { pool: {}, destination: {}, concurrency: 0, leaseMs: 10, colour: "red" };
  expect(() => outboxWorker(options as unknown as OutboxWorkerOptions)).toThrow(
    /pool.*destination.*concurrency.*colour.*leaseMs \(10\) must be at least four times/s,
  );
});
