/**
 * One upload of events: from the bytes of a request to rows that are durable. Owns: its pace, which is that of Postgres, and what is
 * said at its end. Holds a few batches at a time, however long the body is.
 */
import type { Readable, Transform } from "node:stream";
import { decodeContent, readRecords } from "../pipeline.js";
import type { BatchCounts, ContentEncoding, RecordFault, UpsertSink } from "../pipeline.js";
import type { Account } from "./config.js";
import { ownerOf, readEvent } from "./event-record.js";
import type { EventRow, Refusals } from "./event-record.js";

/** The part of a sink that an upload needs. */
export type EventSink = Pick<UpsertSink<EventRow>, "writeBlocks">;

/** What the answer says of an upload. */
export interface UploadSummary {
  readonly object: "event_upload";
  /** Records that the body held. */
  readonly received: number;
  /** Of these, events that are stored now: the sum of the next three. */
  readonly accepted: number;
  readonly inserted: number;
  /** Another content, or a newer version, of an event that was there. */
  readonly updated: number;
  /** The same event again, in this upload or before, or an older version of it. */
  readonly duplicates: number;
  readonly rejected: number;
  /** The first of what was rejected, by line. */
  readonly errors: readonly RecordFault[];
  readonly has_more_errors: boolean;
}

/** Enough to see what is wrong with a producer; the number of all is told. */
const maxErrors = 100;

export interface UploadOptions {
  readonly source: AsyncIterable<Uint8Array>;
  readonly encoding: ContentEncoding;
  readonly format: "ndjson" | "array";
  readonly account: Account;
  readonly sink: EventSink;
}

/** Stores what a body holds. Rejects where it cannot be read or stored to its end; what was stored by then stays, and is harmless. */
export async function runUpload(options: UploadOptions): Promise<UploadSummary> {
  const upload = new Upload();
  return upload.run(options);
}

class Upload implements Refusals {
  readonly #errors: RecordFault[] = [];
  #received = 0;
  #rejected = 0;

  refuse(fault: RecordFault): void {
    this.#rejected += 1;
    if (this.#errors.length < maxErrors) this.#errors.push(fault);
  }

  async run(options: UploadOptions): Promise<UploadSummary> {
    const counts = await options.sink.writeBlocks(this.#read(options));
    return this.#summary(counts);
  }

  async *#read({ source, encoding, format, account }: UploadOptions): AsyncGenerator<EventRow[]> {
    const owner = ownerOf(account, this);
    for await (const block of readRecords(decodeContent(source, encoding), { format })) {
      this.#received += block.values.length + block.faults.length;
      for (const fault of block.faults) this.refuse(fault);
      const rows: EventRow[] = [];
      for (let at = 0; at < block.values.length; at += 1) {
        const row = readEvent(block.values[at], block.lines[at] as number, owner);
        if (row !== undefined) rows.push(row);
      }
      yield rows;
    }
  }

  #summary({ inserted, updated, unchanged, duplicatesInBatch }: BatchCounts): UploadSummary {
    const duplicates = unchanged + duplicatesInBatch;
    return {
      object: "event_upload",
      received: this.#received,
      accepted: inserted + updated + duplicates,
      inserted,
      updated,
      duplicates,
      rejected: this.#rejected,
      errors: this.#errors.toSorted((a, b) => a.line - b.line),
      has_more_errors: this.#rejected > this.#errors.length,
    };
  }
}

/** A request behind a transform. Whoever stops reading leaves the request as it is, so that it can still be answered. */
export function through(source: Readable, transform: Transform): AsyncIterable<Uint8Array> {
  source.once("error", (error) => transform.destroy(error));
  source.once("close", () => {
    if (!source.readableEnded) transform.destroy(new Error("the client has gone"));
  });
  return source.pipe(transform) as AsyncIterable<Uint8Array>;
}
