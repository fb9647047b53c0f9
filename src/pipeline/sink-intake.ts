/**
 * Rows on their way into batches. Owns: which batch a row goes into, when a batch is full or has waited long enough, and that
 * whoever brings rows waits while the database is busy. Rows of one key always go to the same writer, so that no two batches of
 * this process ever wait for each other.
 */
import { weakness } from "../core/key.js";
import { IdempotencyError } from "../core/errors.js";
import type { BatchWriter, NamedBatch } from "./batch-writer.js";
import type { SinkColumn, SinkTable } from "./catalog.js";
import type { BadRow, BatchCounts } from "./description.js";
import type { RefusedRow } from "./refused-rows.js";
import { encodeKey, hashEncodedKey, RowBatch } from "./row-batch.js";
import type { RowFault } from "./row-batch.js";
import { RowBuffer } from "./row-buffer.js";
import type { ResolvedSink } from "./sink-options.js";

/** One of several writers, with the batch that fills up for it. */
interface Lane<Row extends object> {
  filling: RowBatch<Row> | undefined;
  /** One that was written, and whose room the next one takes. */
  spare: RowBatch<Row> | undefined;
  stopTimer: () => void;
  /** It has waited long enough, and goes as soon as the writer is free. */
  isDue: boolean;
  /** The batch that is being written. */
  writing: Promise<void> | undefined;
}

export const noCounts: BatchCounts = {
  inserted: 0,
  updated: 0,
  unchanged: 0,
  duplicatesInBatch: 0,
};

export class SinkIntake<Row extends object> {
  readonly #options: ResolvedSink<Row>;
  readonly #table: SinkTable;
  readonly #writer: Pick<BatchWriter<Row>, "write">;
  readonly #lanes: readonly Lane<Row>[];
  /** The key, where keys are looked at and those of its type can be weak. */
  readonly #weakColumn: SinkColumn | undefined;
  readonly #key = new RowBuffer();
  readonly #hashSeed: number;
  #hash = 0;
  #rowNumber = 0;
  #counts = noCounts;
  /** Called with what made a batch fail. The next call of `push` or `finish` says it too. */
  onFailure: (cause: unknown) => void = () => undefined;
  #failure: { readonly cause: unknown } | undefined;

  constructor(
    options: ResolvedSink<Row>,
    table: SinkTable,
    writer: Pick<BatchWriter<Row>, "write">,
    lanes: number,
  ) {
    this.#options = options;
    this.#table = table;
    this.#writer = writer;
    // Nobody can make keys that all have the same hash without it.
    this.#hashSeed = Math.floor(options.clock.random() * 2 ** 32) | 0;
    const [column] = table.keyColumns;
    const isLookedAt =
      options.weakKeys !== "allow" && table.keyColumns.length === 1 && column?.type.name !== "uuid";
    this.#weakColumn = isLookedAt ? column : undefined;
    this.#lanes = Array.from({ length: lanes }, () => ({
      filling: undefined,
      spare: undefined,
      stopTimer: () => undefined,
      isDue: false,
      writing: undefined,
    }));
  }

  /** What was committed so far. */
  get counts(): BatchCounts {
    return this.#counts;
  }

  /**
   * Takes a row. A promise means: wait for it before the next row. Throws, or rejects, with the first failure of any batch.
   */
  push(row: Row): Promise<void> | undefined {
    this.#check();
    this.#rowNumber += 1;
    const fault = this.#encodeKey(row);
    if (fault !== undefined) return this.#bad(row, this.#rowNumber, fault);
    const lane = this.#lanes[this.#laneOf()] as Lane<Row>;
    const batch = (lane.filling ??= this.#open(lane));
    const wrong = batch.add(row, this.#rowNumber, this.#key, this.#hash);
    if (wrong !== undefined) return this.#bad(row, this.#rowNumber, wrong);
    const { batchRows, maxBatchBytes } = this.#options;
    if (batch.size >= batchRows || batch.bytes >= maxBatchBytes) return this.#send(lane);
    return this.#rowNumber % rowsAtOnce === 0 ? this.#listen() : undefined;
  }

  /** Lets answers of the server in: a batch whose keys were looked up waits for its rows to be sent. */
  #listen(): Promise<void> | undefined {
    const isWriting = this.#lanes.some(({ writing }) => writing !== undefined);
    return isWriting ? new Promise((resolve) => setImmediate(resolve)) : undefined;
  }

  /** Writes what is left, and resolves when everything is durable. */
  async finish(): Promise<BatchCounts> {
    await Promise.all(this.#lanes.map(async (lane) => this.#send(lane)));
    await this.settle();
    this.#check();
    return this.#counts;
  }

  /** Waits for the batches that are being written, and begins no others. Never rejects. */
  async settle(): Promise<void> {
    for (const lane of this.#lanes) {
      lane.stopTimer();
      lane.isDue = false;
    }
    await Promise.all(this.#lanes.map(async ({ writing }) => writing));
  }

  #encodeKey(row: Row): RowFault | undefined {
    const values = row as Readonly<Record<string, unknown>>;
    if (typeof row !== "object" || row === null)
      return {
        column: this.#table.keyColumns[0]?.name ?? "",
        problem: "is missing: the row is no object",
      };
    this.#key.at = 0;
    const fault = encodeKey(this.#table, values, this.#key) ?? this.#weak(values);
    if (fault === undefined) this.#hash = hashEncodedKey(this.#key, this.#hashSeed);
    return fault;
  }

  #weak(row: Readonly<Record<string, unknown>>): RowFault | undefined {
    const column = this.#weakColumn;
    if (column === undefined) return undefined;
    const why = weakness(String(row[column.name]));
    if (why === undefined) return undefined;
    return {
      column: column.name,
      problem: `looks like ${weakWords[why]}, which changes from run to run`,
    };
  }

  /** By the upper bits; the lower ones find rows within a batch. */
  #laneOf(): number {
    return Math.floor(((this.#hash >>> 0) / 2 ** 32) * this.#lanes.length);
  }

  #open(lane: Lane<Row>): RowBatch<Row> {
    const { clock, batchMs, onDuplicate } = this.#options;
    lane.stopTimer();
    lane.stopTimer = clock.after(batchMs, () => {
      // While the writer is busy the batch may as well go on filling up.
      lane.isDue = true;
      if (lane.writing === undefined) this.#begin(lane);
    });
    const { spare } = lane;
    lane.spare = undefined;
    return spare ?? new RowBatch(this.#table, onDuplicate);
  }

  /** Begins to write the lane's batch. A promise means that the writer is busy with the one before. */
  #send(lane: Lane<Row>): Promise<void> | undefined {
    if (lane.writing !== undefined) return lane.writing.then(() => this.#resend(lane));
    this.#begin(lane);
    return undefined;
  }

  #begin(lane: Lane<Row>): void {
    const batch = lane.filling;
    if (batch === undefined || this.#failure !== undefined) return;
    lane.stopTimer();
    lane.filling = undefined;
    lane.isDue = false;
    const write = async (): Promise<void> => {
      await this.#write(batch);
      batch.clear();
      lane.spare = batch;
      lane.writing = undefined;
      if (lane.isDue) this.#begin(lane);
    };
    lane.writing = write();
  }

  /** Somebody else may have sent it while this one waited. */
  async #resend(lane: Lane<Row>): Promise<void> {
    this.#check();
    await this.#send(lane);
  }

  /** Never rejects. */
  async #write(rows: RowBatch<Row>): Promise<void> {
    try {
      const batchId = this.#options.clock.uuid();
      const counts = await this.#writer.write(this.name(rows, batchId, undefined));
      this.#counts = addCounts(this.#counts, counts);
    } catch (cause) {
      this.#failure ??= { cause };
      this.onFailure(cause);
    }
  }

  /** A batch as the writer takes it. */
  name(rows: RowBatch<Row>, batchId: string, digest: Buffer | undefined): NamedBatch<Row> {
    return { rows, batchId, digest, onRefused: (refused) => this.#refused(refused) };
  }

  /** Puts rows into one batch, for a caller who has chosen them. */
  async collect(rows: Iterable<Row>): Promise<RowBatch<Row>> {
    const batch = new RowBatch<Row>(this.#table, this.#options.onDuplicate);
    for (const row of rows) {
      this.#rowNumber += 1;
      const rowNumber = this.#rowNumber;
      const fault = this.#encodeKey(row) ?? batch.add(row, rowNumber, this.#key, this.#hash);
      if (fault !== undefined) await this.#bad(row, rowNumber, fault);
    }
    return batch;
  }

  #check(): void {
    if (this.#failure !== undefined) throw this.#failure.cause;
  }

  async #refused(refused: readonly RefusedRow<Row>[]): Promise<void> {
    for (const { row, rowNumber, column, reason } of refused)
      await this.#tell({ ...this.#identify(row, rowNumber), column, reason });
  }

  async #bad(row: Row, rowNumber: number, { column, problem }: RowFault): Promise<void> {
    await this.#tell({
      ...this.#identify(row, rowNumber),
      column,
      reason: `${column} ${problem}.`,
    });
  }

  #identify(row: Row, rowNumber: number): Pick<BadRow<Row>, "row" | "rowNumber" | "key"> {
    if (typeof row !== "object" || row === null) return { row, rowNumber, key: undefined };
    const values = row as Readonly<Record<string, unknown>>;
    const key = Object.fromEntries(this.#table.keyColumns.map(({ name }) => [name, values[name]]));
    return { row, rowNumber, key };
  }

  async #tell(bad: BadRow<Row>): Promise<void> {
    const { onBadRow } = this.#options;
    if (onBadRow === undefined)
      throw new IdempotencyError("row_invalid", {
        detail: `Row ${bad.rowNumber} cannot be stored: ${bad.reason}`,
      });
    await onBadRow(bad);
  }
}

/** Encoded without a look at what the server has answered meanwhile: a millisecond or less. */
const rowsAtOnce = 256;

const weakWords = {
  small_integer: "a counter",
  unix_time: "a Unix time",
  iso_time: "a time",
} as const;

export function addCounts(a: BatchCounts, b: BatchCounts): BatchCounts {
  return {
    inserted: a.inserted + b.inserted,
    updated: a.updated + b.updated,
    unchanged: a.unchanged + b.unchanged,
    duplicatesInBatch: a.duplicatesInBatch + b.duplicatesInBatch,
  };
}
