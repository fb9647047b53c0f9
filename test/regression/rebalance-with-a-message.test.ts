/**
 * A rebalance that was told in the very turn in which a message came was forgotten: the source went on with the partitions that it
 * had before, and those that it was given were read by nobody until the next rebalance. So would look the run of npm run
 * test:kafka that once gave no result.
 */
import { kafkaSource, upsertSink } from "../../src/pipeline.js";
import type { KafkaConsumer, KafkaMessage } from "../../src/pipeline.js";
import { migrate } from "../../src/stores/postgres.js";
import { useDatabase } from "../support/databases.js";
import { waitFor } from "../support/wait-for.js";

const database = useDatabase({
  prepare: async (pool) => {
    await migrate({ pool });
    await pool.query("CREATE TABLE events (id text PRIMARY KEY)");
  },
});

type Result = IteratorResult<KafkaMessage>;

/** The client's side of the source, where what happens in one turn can be chosen. */
class HandMade implements KafkaConsumer<KafkaMessage> {
  readonly topics = { trackAll: () => undefined };
  opened = 0;
  join: () => void = () => undefined;
  deliver: ((result: Result) => void) | undefined;

  async listOffsets(): Promise<Map<string, bigint[]>> {
    return new Map([["events", [0n]]]);
  }

  async consume() {
    this.opened += 1;
    const next = (): Promise<Result> =>
      new Promise((resolve) => {
        this.deliver = resolve;
      });
    return { [Symbol.asyncIterator]: () => ({ next }), close: async () => undefined };
  }

  on(_event: string, listener: () => void): void {
    this.join = listener;
  }

  off(): void {
    this.join = () => undefined;
  }
}

const message: Result = { value: { topic: "events", partition: 0, offset: 0n }, done: false };

test("a rebalance in the turn of a message opens the partitions anew, and the message is stored", async () => {
  const { pool } = database;
  const consumer = new HandMade();
  const stop = new AbortController();
  const running = kafkaSource({
    name: "events",
    consumer,
    topics: ["events"],
    pool,
    batchMs: 20,
    decode: ({ offset }) => ({ id: `e${offset}` }),
    sink: (inTransaction) =>
      upsertSink({
        pool,
        table: "events",
        key: "id",
        columns: ["id"],
        onDuplicate: "ignore",
        inTransaction,
      }),
  }).run({ signal: stop.signal });
  const stored = async (): Promise<unknown[]> => (await pool.query("SELECT id FROM events")).rows;
  try {
    await waitFor(() => consumer.deliver !== undefined, { what: "the first read" });
    consumer.deliver?.(message);
    // Behind the message on its way, and before the source has seen it.
    queueMicrotask(() => consumer.join());
    await waitFor(() => consumer.opened === 2, { timeoutMs: 5_000, what: "another stream" });
    // It was not stored, so Kafka sends it again.
    expect(await stored()).toEqual([]);
    consumer.deliver?.(message);
    await waitFor(async () => (await stored()).length === 1, { what: "the message to be stored" });
  } finally {
    stop.abort();
    await running;
  }
});
