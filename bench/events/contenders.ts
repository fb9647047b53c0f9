/** Ways to get events into the keyed table: the sink, and the bound that nothing can pass. */
import pg from "pg";

import { readTable } from "../../src/pipeline/catalog.js";
import { copyIn } from "../../src/pipeline/copy-in.js";
import { copyHead, copyTail, encodeKey, encodeRest } from "../../src/pipeline/row-batch.js";
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
  events: Iterable<Event>,
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
  let next = 0;
  const work = async (): Promise<void> => {
    const client = await pool.connect();
    const room = new RowBuffer();
    try {
      while (next < events.length) {
        const part = events.slice(next, next + batchRows);
        next += part.length;
        await copyIn(client, text, encode(part, room), 60_000);
      }
    } finally {
      client.release();
    }
  };
  /** Only encodes; every connection has room of its own, which the bytes stay in until they are copied. */
  const encode = (part: readonly Event[], out: RowBuffer): Buffer => {
    out.at = 0;
    out.appendBytes(copyHead);
    for (const row of part)
      if ((encodeKey(described, row, out) ?? encodeRest(described, row, out)) !== undefined)
        throw new Error("an event that cannot be stored");
    out.appendBytes(copyTail);
    return out.bytes.subarray(0, out.at);
  };
  try {
    await Promise.all(Array.from({ length: writers }, work));
  } finally {
    await pool.end();
  }
}
