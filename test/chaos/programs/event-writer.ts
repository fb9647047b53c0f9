/** Writes one part of the events, chunk by chunk, and says which chunks are durable; whoever starts it again says where to begin. */
import pg from "pg";

import { upsertSink } from "../../../src/pipeline.js";
import { eventAt, type Mode, type StreamedEvent } from "../event-stream.js";

export type WriterPlan = {
  readonly url: string;
  readonly table: string;
  readonly mode: Mode;
  readonly events: number;
  readonly chunkEvents: number;
  /** Chunks of this writer: every `of`th from `index`. */
  readonly index: number;
  readonly of: number;
  /** The first of them that is not known to be durable. */
  readonly from: number;
  readonly isReversed: boolean;
  readonly batchRows: number;
};

const plan = JSON.parse(process.argv[2] as string) as WriterPlan;
const pool = new pg.Pool({ connectionString: plan.url });
pool.on("error", () => undefined);
const sink = upsertSink<StreamedEvent>({
  pool,
  table: plan.table,
  key: "id",
  columns: ["id", "n", "version", "amount", "merchant", "at"],
  ...(plan.mode === "versions"
    ? { onDuplicate: "overwrite", version: "version" }
    : { onDuplicate: "ignore" }),
  batchRows: plan.batchRows,
});

const chunks = Math.ceil(plan.events / plan.chunkEvents);
const order = Array.from({ length: chunks }, (_, chunk) => chunk).filter(
  (chunk) => chunk % plan.of === plan.index,
);
if (plan.isReversed) order.reverse();

function* eventsOf(chunk: number): Generator<StreamedEvent> {
  const end = Math.min((chunk + 1) * plan.chunkEvents, plan.events);
  for (let number = chunk * plan.chunkEvents; number < end; number += 1)
    yield eventAt(number, plan.mode);
}

for (let place = plan.from; place < order.length; place += 1) {
  await sink.write(eventsOf(order[place] as number));
  process.stdout.write(`durable ${place + 1}\n`);
}
await sink.close();
await pool.end();
process.stdout.write("all written\n");
