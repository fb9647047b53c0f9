/** Reads a topic into Postgres until it is stopped or killed. */
import { Consumer } from "@platformatic/kafka";
import pg from "pg";

import { kafkaSource, upsertSink } from "../../../src/pipeline.js";

const plan = JSON.parse(process.argv[2] ?? "{}") as {
  readonly broker: string;
  readonly topic: string;
  readonly group: string;
  readonly databaseUrl: string;
};
const pool = new pg.Pool({ connectionString: plan.databaseUrl, max: 3 });
pool.on("error", () => undefined);
const consumer = new Consumer({
  clientId: "oncekey",
  groupId: plan.group,
  bootstrapBrokers: [plan.broker],
  sessionTimeout: 2_000,
  heartbeatInterval: 200,
  rebalanceTimeout: 2_000,
  maxWaitTime: 50,
});
const stop = new AbortController();
process.once("SIGTERM", () => stop.abort());

type Event = { id: string; version: number };
const source = kafkaSource({
  name: plan.topic,
  consumer,
  topics: [plan.topic],
  pool,
  batchMessages: 100,
  batchMs: 20,
  decode: ({ value }: { readonly value: Buffer }) => JSON.parse(value.toString()) as Event,
  onPoison: async ({ place }) => {
    await pool.query("INSERT INTO poison VALUES ($1) ON CONFLICT DO NOTHING", [place]);
  },
  sink: (note) =>
    upsertSink<Event>({
      table: "events",
      key: "id",
      columns: ["id", "version"],
      onDuplicate: "overwrite",
      version: "version",
      pool,
      inTransaction: async (batch) => {
        await note(batch);
        // Adds, where the sink overwrites: a message that is stored twice is counted twice. Its producer gave it its number.
        await batch.query(`INSERT INTO stored SELECT id, version FROM ${batch.staged}`);
      },
    }),
});
consumer.on("consumer:group:join", () => console.log("joined"));
await source.run({ signal: stop.signal });
await consumer.close();
await pool.end();
