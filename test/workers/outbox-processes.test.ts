/** Outbox workers as processes: killed between delivery and note, frozen past their lease, sharing work, losing Postgres. */
import { migrate } from "../../src/stores/postgres.js";
import { advanceClock, useMigratedDatabase } from "../stores/open-stores.js";
import { createDatabase } from "../support/databases.js";
import { startPostgres } from "../support/postgres-server.js";
import { startProgram, type RunningProcess } from "../support/server-process.js";
import { waitFor } from "../support/wait-for.js";
import { countStates, messageRow, sendMany, sendMessages, testSecret } from "./outbox-messages.js";
import { startReceiver, type Receiver } from "./receiver.js";

const processes: RunningProcess[] = [];
let receiver: Receiver;

afterEach(async () => {
  for (const running of processes.splice(0)) {
    running.thaw();
    await running.kill();
  }
  await receiver.close();
});
const database = useMigratedDatabase();
beforeEach(async () => {
  await database.pool.query("TRUNCATE idempotency_outbox");
  receiver = await startReceiver();
});

async function startWorker(databaseUrl = database.url, worker = {}): Promise<RunningProcess> {
  const OUTBOX = JSON.stringify({ databaseUrl, url: receiver.url, secret: testSecret, worker });
  const running = startProgram("test/workers/programs/outbox-worker.ts", { env: { OUTBOX } });
  processes.push(running);
  await running.waitForOutput(/ready/);
  return running;
}

const idsReceived = (): string[] => receiver.received.map(({ id }) => id);

test("a worker killed between delivery and note delivers again, under the same id", async () => {
  const [eventId = ""] = await sendMessages(database.pool, "killed");
  const client = await database.pool.connect();
  let held = false;
  // The endpoint answers only when the note cannot be written any more.
  receiver.answer = async () => {
    if (!held) {
      held = true;
      await client.query("BEGIN");
      await client.query("SELECT 1 FROM idempotency_outbox FOR UPDATE");
    }
    return 200;
  };
  const first = await startWorker();
  await waitFor(
    async () => {
      const { rows } = await database.pool.query(
        "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%delivered%'",
      );
      return rows.length === 1;
    },
    { what: "the note to wait for the lock" },
  );
  await first.kill();
  // The server ends the statement of a client that is gone only when it has something to say to it.
  await database.pool.query(
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%delivered%'",
  );
  await client.query("ROLLBACK");
  client.release();
  expect(await messageRow(database.pool, eventId)).toMatchObject({ state: "pending", attempts: 1 });

  await startWorker();
  await advanceClock(database.pool, 60_000);
  await waitFor(async () => (await countStates(database.pool))["delivered"] === 1);
  expect(idsReceived()).toEqual([eventId, eventId]);
});

test("a worker frozen past its lease cannot note what it did", async () => {
  const [eventId = ""] = await sendMessages(database.pool, "frozen");
  let answerFirst: () => void = () => undefined;
  receiver.answer = () => new Promise((resolve) => (answerFirst = () => resolve(500)));
  const first = await startWorker();
  await waitFor(() => receiver.open === 1);
  first.freeze();
  const answer = answerFirst;
  receiver.answer = () => 200;
  await advanceClock(database.pool, 60_001);
  await startWorker();
  await waitFor(async () => (await countStates(database.pool))["delivered"] === 1);
  answer();
  first.thaw();
  await first.waitForOutput(/^lost/m);
  expect(await messageRow(database.pool, eventId)).toMatchObject({
    state: "delivered",
    attempts: 2,
    last_error: null,
  });
  expect(idsReceived()).toEqual([eventId, eventId]);
});

test("two processes share the work and never deliver one message at the same time", async () => {
  await sendMany(database.pool, 300, 4);
  receiver.answer = async () => {
    await new Promise((resolve) => setImmediate(resolve));
    return 200;
  };
  const [one, two] = [await startWorker(), await startWorker()];
  await waitFor(async () => (await countStates(database.pool))["delivered"] === 1_200, {
    timeoutMs: 25_000,
  });
  expect(receiver.received).toHaveLength(1_200);
  expect(receiver.overlapped).toEqual([]);
  const last = new Map<string, number>();
  for (const { body } of receiver.received) {
    const { key, position } = JSON.parse(body) as { key: string; position: number };
    expect(position).toBe((last.get(key) ?? 0) + 1);
    last.set(key, position);
  }
  for (const worker of [one, two]) {
    worker.signal("SIGTERM");
    expect(await worker.exited()).toBe(0);
    expect(worker.output()).toContain("delivered");
    expect(worker.output()).toContain("stopped");
  }
});

test("what was delivered while Postgres was away is noted when it is back, and not sent again", async () => {
  const server = await startPostgres();
  const other = await createDatabase({
    serverUrl: server.url,
    prepare: (pool) => migrate({ pool }),
  });
  const [eventId = ""] = await sendMessages(other.pool, "outage");
  receiver.answer = async () => {
    await server.stop();
    return 200;
  };
  const worker = await startWorker(other.url);
  await waitFor(() => receiver.received.length === 1);
  await worker.waitForOutput(/^store_error/m);
  await server.restart();
  await waitFor(async () => (await countStates(other.pool))["delivered"] === 1, {
    timeoutMs: 90_000,
  });
  expect(idsReceived()).toEqual([eventId]);
  await worker.stop();
  await other.drop();
  await server.end();
}, 300_000);
