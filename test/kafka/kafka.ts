/** kafkaSource on a real broker and a real Postgres: exact counts through kills, rebalances and two owners of one partition. */
import { Admin, Producer } from "@platformatic/kafka";

import { migrate } from "../../src/stores/postgres.js";
import { useDatabase } from "../support/databases.js";
import { startProgram } from "../support/server-process.js";
import { waitFor } from "../support/wait-for.js";
import { startBroker } from "./broker.js";

const database = useDatabase({
  prepare: async (pool) => {
    await migrate({ pool });
    await pool.query(`CREATE TABLE events (id text PRIMARY KEY, version bigint);
      CREATE TABLE stored (id text, version bigint);
      CREATE TABLE poison (place text PRIMARY KEY)`);
  },
});
const partitions = 3;
let broker: string;
let producer: Producer;
let admin: Admin;
let topics = 0;

beforeAll(async () => {
  broker = await startBroker();
  const options = { clientId: "test", bootstrapBrokers: [broker] };
  // Else a first try that reaches some of the partitions only is sent again to all.
  producer = new Producer({ ...options, idempotent: true });
  admin = new Admin(options);
});
afterAll(async () => {
  await producer.close();
  await admin.close();
});

async function makeTopic(): Promise<string> {
  const topic = `events_${(topics += 1)}`;
  await admin.createTopics({ topics: [topic], partitions, replicas: 1 });
  await database.pool.query("TRUNCATE events, stored, poison");
  return topic;
}

/** Each id goes to one partition, every tenth message is sent twice, and every 97th is no JSON. */
async function produce(topic: string, from: number, to: number): Promise<void> {
  const messages = [];
  for (let number = from; number < to; number += 1) {
    const partition = number % partitions;
    const text = JSON.stringify({ id: `e${number}`, version: number });
    const value = Buffer.from(number % 97 === 96 ? `broken ${text}` : text);
    messages.push({ topic, partition, value });
    if (number % 10 === 0) messages.push({ topic, partition, value });
  }
  await producer.send({ messages, acks: -1 });
}

const expectedOf = (count: number) => {
  const numbers = Array.from({ length: count }, (_, number) => number);
  return {
    good: numbers.filter((number) => number % 97 !== 96).length,
    poison: numbers
      .filter((number) => number % 97 === 96)
      .reduce((sum, number) => sum + (number % 10 === 0 ? 2 : 1), 0),
    messages: numbers.reduce((sum, number) => sum + (number % 10 === 0 ? 2 : 1), 0),
  };
};

const start = (topic: string, group = "group") =>
  startProgram("test/kafka/programs/consumer.ts", {
    args: [JSON.stringify({ broker, topic, group, databaseUrl: database.url })],
  });

const read = async (topic: string): Promise<number> => {
  const { rows } = await database.pool.query<{ sum: string | null }>(
    "SELECT sum(position)::text AS sum FROM idempotency_positions WHERE source = $1",
    [topic],
  );
  return Number(rows[0]?.sum ?? 0);
};
const untilRead = (topic: string, messages: number): Promise<unknown> =>
  waitFor(async () => (await read(topic)) >= messages, {
    timeoutMs: 60_000,
    what: `${messages} messages to be stored`,
  });

/** How a program ends, with what it said where that is not well. */
async function ending(consumer: ReturnType<typeof start>): Promise<[number | null, string]> {
  const code = await consumer.stop();
  return [code, code === 0 ? "" : consumer.output()];
}

async function counts() {
  const { rows } = await database.pool.query<Record<string, number>>(
    `SELECT (SELECT count(*)::int FROM events) AS rows, (SELECT count(*)::int FROM poison) AS poison,
       (SELECT count(*)::int FROM stored) AS stored, (SELECT count(DISTINCT id)::int FROM stored) AS ids`,
  );
  return rows[0] as { rows: number; poison: number; stored: number; ids: number };
}

test("consumers that are killed and replaced store every message, and its effect once", async () => {
  const topic = await makeTopic();
  const rounds = 6;
  const step = 1_000;
  let consumers = [start(topic), start(topic)];
  for (let round = 0; round < rounds; round += 1) {
    const already = await read(topic);
    await produce(topic, round * step, (round + 1) * step);
    // In the middle of the round.
    await untilRead(topic, already + 50);
    await consumers[0]?.kill();
    consumers = [...consumers.slice(1), start(topic)];
  }
  const expected = expectedOf(rounds * step);
  await untilRead(topic, expected.messages);
  expect(await read(topic)).toBe(expected.messages);
  const found = await counts();
  expect(found).toMatchObject({ rows: expected.good, poison: expected.poison, ids: expected.good });
  // A duplicate in a batch of its own is staged again; one in the same batch is not.
  expect(found.stored).toBeLessThanOrEqual(expected.messages - expected.poison);
  for (const consumer of consumers) expect(await ending(consumer)).toEqual([0, ""]);
});

test("two that both believe to own every partition store each message once", async () => {
  const topic = await makeTopic();
  const unique = 3_000;
  // Two groups: Kafka gives both of them everything, as it does to a consumer that does not know of a rebalance yet.
  const consumers = [start(topic, "one"), start(topic, "other")];
  for (const consumer of consumers) await consumer.waitForOutput(/joined/, 30_000);
  for (let sent = 0; sent < unique; sent += 100) {
    const messages = Array.from({ length: 100 }, (_, index) => {
      const value = Buffer.from(JSON.stringify({ id: `u${sent + index}`, version: 1 }));
      return { topic, partition: index % partitions, value };
    });
    await producer.send({ messages, acks: -1 });
    // Step by step, so that both are there for each of them.
    await untilRead(topic, sent + 100);
  }
  expect(await read(topic)).toBe(unique);
  expect(await counts()).toEqual({ rows: unique, poison: 0, stored: unique, ids: unique });
  for (const consumer of consumers) expect(await ending(consumer)).toEqual([0, ""]);
});

test("messages that are nothing but poison move the position", async () => {
  const topic = await makeTopic();
  const value = Buffer.from("no JSON");
  await producer.send({
    messages: [0, 1, 2].map((partition) => ({ topic, partition, value })),
    acks: -1,
  });
  const consumer = start(topic);
  await untilRead(topic, 3);
  expect(await counts()).toEqual({ rows: 0, poison: 3, stored: 0, ids: 0 });
  expect(await consumer.stop()).toBe(0);
});
