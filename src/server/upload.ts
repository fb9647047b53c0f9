/**
 * One upload of events: from the bytes of a request to rows that are durable. Owns: its pace, which is that of Postgres, and what is
 * said at its end. Holds a few batches at a time, however long the body is.
 */
import type { Readable, Transform } from "node:stream";
import { decodeContent, readRecords } from "../pipeline.js";
import type { BatchCounts, ContentEncoding, RecordFault } from "../pipeline.js";
import type { Account } from "./config.js";
import { ownerOf, readEvent } from "./event-record.js";
import type { EventRow, Refusals } from "./event-record.js";

/** The part of a sink that an upload needs. */
export interface EventSink {
  writeBatch(rows: readonly EventRow[]): Promise<BatchCounts>;
}

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
/** Twice as many are hardly faster, and four such batches are held at a time. */
const batchRows = 5_000;
/** Batches written at the same time, which the sink has connections for. Each has one that fills up behind it. */
const laneCount = 2;

/**
 * One of several rows of batches. An id always goes down the same one, so that two batches of an upload never hold the same event:
 * the later would wait for the earlier, find its copy refused, and be staged.
 */
interface Lane {
  filling: EventRow[];
  writing: Promise<void> | undefined;
}

export interface UploadOptions {
  readonly source: AsyncIterable<Uint8Array>;
  readonly encoding: ContentEncoding;
  readonly format: "ndjson" | "array";
  readonly account: Account;
  readonly sink: EventSink;
}

/** Stores what a body holds. Rejects where it cannot be read or stored to its end; what was stored by then stays, and is harmless. */
export async function runUpload(options: UploadOptions): Promise<UploadSummary> {
  const upload = new Upload(options.sink);
  await upload.run(options);
  return upload.summary();
}

class Upload implements Refusals {
  readonly #sink: EventSink;
  readonly #lanes: readonly Lane[] = Array.from({ length: laneCount }, () => ({
    filling: [],
    writing: undefined,
  }));
  readonly #errors: RecordFault[] = [];
  #received = 0;
  #rejected = 0;
  #inserted = 0;
  #updated = 0;
  #duplicates = 0;
  #failure: { readonly error: unknown } | undefined;

  constructor(sink: EventSink) {
    this.#sink = sink;
  }

  refuse(fault: RecordFault): void {
    this.#rejected += 1;
    if (this.#errors.length < maxErrors) this.#errors.push(fault);
  }

  async run({ source, encoding, format, account }: UploadOptions): Promise<void> {
    const owner = ownerOf(account, this);
    try {
      for await (const block of readRecords(decodeContent(source, encoding), { format })) {
        this.#received += block.values.length + block.faults.length;
        for (const fault of block.faults) this.refuse(fault);
        for (let at = 0; at < block.values.length; at += 1) {
          const row = readEvent(block.values[at], block.lines[at] as number, owner);
          if (row !== undefined) (this.#lanes[laneOf(row.event_id)] as Lane).filling.push(row);
        }
        for (const lane of this.#lanes)
          if (lane.filling.length >= batchRows) await this.#write(lane);
      }
      for (const lane of this.#lanes) await this.#write(lane);
    } finally {
      // Also where the body broke off: nothing is under way when the answer is sent.
      await Promise.all(this.#lanes.map(async ({ writing }) => writing));
    }
    this.#throwFailure();
  }

  summary(): UploadSummary {
    const accepted = this.#inserted + this.#updated + this.#duplicates;
    return {
      object: "event_upload",
      received: this.#received,
      accepted,
      inserted: this.#inserted,
      updated: this.#updated,
      duplicates: this.#duplicates,
      rejected: this.#rejected,
      errors: this.#errors.toSorted((a, b) => a.line - b.line),
      has_more_errors: this.#rejected > this.#errors.length,
    };
  }

  /** Resolves when the batch is on its way, which holds the body back when Postgres is slower. */
  async #write(lane: Lane): Promise<void> {
    await lane.writing;
    this.#throwFailure();
    const rows = lane.filling;
    lane.filling = [];
    if (rows.length > 0) lane.writing = this.#store(rows);
  }

  /** Never rejects. */
  async #store(rows: readonly EventRow[]): Promise<void> {
    try {
      const counts = await this.#sink.writeBatch(rows);
      this.#inserted += counts.inserted;
      this.#updated += counts.updated;
      this.#duplicates += counts.unchanged + counts.duplicatesInBatch;
    } catch (error) {
      this.#failure ??= { error };
    }
  }

  #throwFailure(): void {
    if (this.#failure !== undefined) throw this.#failure.error;
  }
}

/** FNV-1a over the last characters: ids that begin with a time, or with a name, differ there. */
function laneOf(id: string): number {
  let hash = 0x811c9dc5;
  for (let at = Math.max(0, id.length - hashedCharacters); at < id.length; at += 1)
    hash = Math.imul(hash ^ id.charCodeAt(at), 0x01000193);
  return (hash >>> 8) % laneCount;
}

const hashedCharacters = 8;

/** A request behind a transform. Whoever stops reading leaves the request as it is, so that it can still be answered. */
export function through(source: Readable, transform: Transform): AsyncIterable<Uint8Array> {
  source.once("error", (error) => transform.destroy(error));
  source.once("close", () => {
    if (!source.readableEnded) transform.destroy(new Error("the client has gone"));
  });
  return source.pipe(transform) as AsyncIterable<Uint8Array>;
}
