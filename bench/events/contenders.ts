/** Ways to get events into the keyed table: the sink, and the bound that nothing can pass. */
import pg from "pg";

import { readTable } from "../../src/pipeline/catalog.js";
import { copyIn } from "../../src/pipeline/copy-in.js";
import { encodeKey, RowBatch } from "../../src/pipeline/row-batch.js";
import type { KeptRow } from "../../src/pipeline/row-batch.js";
import { RowBuffer } from "../../src/pipeline/row-buffer.js";
import { upsertSink } from "../../src/pipeline.js";
import type { BatchCounts } from "../../src/pipeline.js";
import { columns, type Event } from "./generator.js";

export const description = (table: string) =>
  ({ table, key: "id", columns, onDuplicate: "ignore" }) as const;

export type Shape = { readonly writers: number; readonly batchRows: number };

/** Everything through the sink; answers its counts. */
export async function throughSink(
  url: string,
  table: string,
  events: readonly Event[],
  shape: Shape & { readonly copyDirectly: boolean },
): Promise<BatchCounts> {
  const pool = new pg.Pool({ connectionString: url });
  const sink = upsertSink<Event>({ ...description(table), ...shape, pool });
  try {
    return await sink.write(events);
  } finally {
    await sink.close();
    await pool.end();
  }
}

/**
 * The bound: binary COPY straight into the table, by as many connections and in batches of the same size, encoded by the same
 * code, in a transaction each. It takes no duplicates, finds none, and counts nothing.
 */
export async function directCopy(
  url: string,
  table: string,
  events: readonly Event[],
  { writers, batchRows }: Shape,
): Promise<void> {
  const pool = new pg.Pool({ connectionString: url, max: writers });
  const described = await readTable(pool, description(table));
  const text = `COPY ${described.quoted} (${described.columns.map(({ name }) => name).join(", ")}) FROM STDIN (FORMAT binary)`;
  const key = new RowBuffer();
  let next = 0;
  const work = async (): Promise<void> => {
    const client = await pool.connect();
    try {
      while (next < events.length) {
        const part = events.slice(next, next + batchRows);
        next += part.length;
        await copyIn(client, text, encode(part), 60_000);
      }
    } finally {
      client.release();
    }
  };
  const encode = (part: readonly Event[]): Buffer => {
    const out = new RowBuffer();
    const rows: KeptRow<Event>[] = [];
    const batch = new RowBatch<Event>(described, "ignore", out);
    for (const [index, row] of part.entries()) {
      const start = out.at;
      if (encodeKey(described, row, key) !== undefined) throw new Error("an event without a key");
      out.append(key.bytes, 0, key.at);
      if (batch.encodeRest(row) !== undefined) throw new Error("an event that cannot be stored");
      rows.push({ row, rowNumber: index, key: "", start, end: out.at, keyEnd: 0 });
    }
    return batch.copyBytes(rows);
  };
  try {
    await Promise.all(Array.from({ length: writers }, work));
  } finally {
    await pool.end();
  }
}
