/**
 * What the sources have in common: decoding messages into rows, and a note that commits with the rows of its batch. Owns: that a message
 * which cannot be decoded is told before its place is passed. Must never let a place be passed whose rows were not stored.
 */
import { IdempotencyError } from "../core/errors.js";
import type { Statement } from "../stores/connections.js";
import type { BatchCounts, InTransaction, SinkBatch, SinkRow } from "./description.js";

/** What a source uses of `upsertSink`. */
export interface SourceSink<Row extends object = SinkRow> {
  writeBatch(rows: Iterable<Row>, options?: { readonly batchId?: string }): Promise<BatchCounts>;
  close(): Promise<void>;
}

/** Makes the sink of a source. It has to give the hook to `upsertSink` as `inTransaction`, or call it first from a hook of its own. */
export type OpenSink<Row extends object = SinkRow> = (
  inTransaction: InTransaction<Row>,
) => SourceSink<Row>;

/** A message that cannot be decoded. */
export interface PoisonMessage<Message> {
  readonly message: Message;
  /** Where it is, for people: topic, partition and offset, or the entry's id. */
  readonly place: string;
  readonly cause: unknown;
}

export interface Decoding<Message, Row extends object> {
  /** Makes a row, or several, or none of a message. What it throws makes the message a poison message. */
  readonly decode: (message: Message) => Row | readonly Row[] | undefined;
  /**
   * Takes poison messages before their place is passed; one can come twice. What it throws ends the run. Without it, a poison
   * message ends the run with `row_invalid`.
   */
  readonly onPoison?: ((poison: PoisonMessage<Message>) => void | Promise<void>) | undefined;
}

/** Somebody else has stored what this consumer was about to store. Nothing was written. */
export class PlaceLost extends Error {
  constructor() {
    super("another consumer has stored these messages");
    this.name = "PlaceLost";
  }
}

/** Runs a statement in the batch's transaction, or by itself. */
export type RunNote = (statement: Statement, values: readonly unknown[]) => Promise<number>;

/** Tells the hook which note belongs to which batch. */
export class BatchNotes<Row extends object> {
  readonly #notes = new Map<string, (run: RunNote) => Promise<void>>();

  readonly inTransaction: InTransaction<Row> = async (batch: SinkBatch<Row>) => {
    const note = this.#notes.get(batch.batchId);
    // Rows that somebody writes through the same sink by other ways have no place in the source.
    if (note === undefined) return;
    await note(async ({ text }, values) => (await batch.query(text, values)).rowCount ?? 0);
  };

  /** Writes a batch; its note commits with it. */
  async write(
    sink: SourceSink<Row>,
    rows: readonly Row[],
    batchId: string,
    note: (run: RunNote) => Promise<void>,
  ): Promise<BatchCounts> {
    this.#notes.set(batchId, note);
    try {
      return await sink.writeBatch(rows, { batchId });
    } finally {
      this.#notes.delete(batchId);
    }
  }
}

/** The rows of messages, in their order. */
export async function decodeAll<Message, Row extends object>(
  { decode, onPoison }: Decoding<Message, Row>,
  messages: readonly { readonly message: Message; readonly place: string }[],
): Promise<Row[]> {
  const rows: Row[] = [];
  for (const { message, place } of messages) {
    try {
      const decoded = decode(message);
      if (Array.isArray(decoded)) for (const row of decoded as readonly Row[]) rows.push(row);
      else if (decoded !== undefined) rows.push(decoded as Row);
    } catch (cause) {
      if (onPoison === undefined)
        throw new IdempotencyError("row_invalid", {
          detail: `The message at ${place} cannot be decoded, and the source has no onPoison.`,
          cause,
        });
      await onPoison({ message, place, cause });
    }
  }
  return rows;
}
