/**
 * The keyed upsert into Postgres: rows in, by batch, stream or iteration; exact counts out. Owns: opening and closing, and the three
 * ways in. Must never resolve before what it was given is durable.
 */
import { once } from "node:events";
import { Writable } from "node:stream";
import { callbackify } from "node:util";
import type { Pool } from "pg";
import { IdempotencyError, isIdempotencyError } from "../core/errors.js";
import { pauseAfter } from "../core/retry.js";
import { assertSchema } from "../stores/migrate.js";
import { derivePool } from "../stores/connections.js";
import { isAnswered } from "../stores/sql-state.js";
import { BatchWriter } from "./batch-writer.js";
import { readTable } from "./catalog.js";
import type { SinkTable } from "./catalog.js";
import type { BatchCounts, BatchOptions, SinkRow } from "./description.js";
import { reapBatches } from "./reap-batches.js";
import { noCounts, SinkIntake } from "./sink-intake.js";
import { resolveSink } from "./sink-options.js";
import type { ResolvedSink, UpsertSinkOptions } from "./sink-options.js";

/** A Node stream of rows in object mode, with what it has committed so far. */
export interface SinkWritable extends Writable {
  readonly counts: BatchCounts;
}

export interface UpsertSink<Row extends object = SinkRow> {
  /**
   * Writes rows as one batch, in one transaction, and resolves with its exact counts when it is durable. Conflicts, lost
   * connections and a lost reply to COMMIT are settled here, by the batch's row in the ledger.
   *
   * @throws `row_invalid`, `batch_reused`, `table_unsuitable`, `schema_missing`; `store_unavailable` and `transaction_conflict` after
   *   `retryForMs`. After these two the batch may have been committed: the same `batchId` finds out.
   */
  writeBatch(rows: Iterable<Row>, options?: BatchOptions): Promise<BatchCounts>;
  /**
   * Writes everything that is iterated, in batches, by several writers; takes rows no faster than the database does. Resolves
   * with the sum of all counts when all is durable. Rejects with the first failure; batches that were committed before stay,
   * and the same rows written again are found there.
   */
  write(rows: AsyncIterable<Row> | Iterable<Row>): Promise<BatchCounts>;
  /** The same for rows that come some at a time, which spares a promise for each of them. */
  writeBlocks(blocks: AsyncIterable<Iterable<Row>>): Promise<BatchCounts>;
  /** The same as a Node stream. `finish` is emitted when all is durable. */
  writable(): SinkWritable;
  /** Waits for what is being written, and closes the sink's connections. */
  close(): Promise<void>;
}

const maxBatchIdLength = 255;

/**
 * Makes a sink that keeps one row of each key, however often, in whatever order and by how many processes it is written.
 *
 * Without `version` the last writer wins, so that with `overwrite` the end depends on the order; with it, it does not.
 *
 * @throws `options_invalid` that lists every problem at once.
 */
export function upsertSink<Row extends object = SinkRow>(
  given: UpsertSinkOptions<Row>,
): UpsertSink<Row> {
  return new Sink(resolveSink(given));
}

interface Opened<Row extends object> {
  readonly table: SinkTable;
  readonly writer: Pick<BatchWriter<Row>, "write">;
}

/** How often a sink that writes removes old rows of the ledger, in ms. */
const reapEveryMs = 60_000;

class Sink<Row extends object> implements UpsertSink<Row> {
  readonly #options: ResolvedSink<Row>;
  readonly #own: Pool;
  readonly #underWay = new Set<Promise<unknown>>();
  #opening: Promise<Opened<Row>> | undefined;
  #closing: Promise<void> | undefined;
  #reapedAtMs = Number.NEGATIVE_INFINITY;

  constructor(options: ResolvedSink<Row>) {
    this.#options = options;
    const { pool, writers, timeoutMs, pooler } = options;
    this.#own = derivePool(pool, { max: writers, timeoutMs, pooler });
    // Told by the statement under way, or by the next one.
    this.#own.on("error", () => undefined);
  }

  async writeBatch(rows: Iterable<Row>, { batchId }: BatchOptions = {}): Promise<BatchCounts> {
    if (batchId !== undefined && (batchId === "" || batchId.length > maxBatchIdLength))
      throw new TypeError(`batchId must have 1 to ${maxBatchIdLength} characters`);
    return this.#track(async () => {
      const { table, writer } = await this.#open();
      const intake = new SinkIntake(this.#options, table, writer, 1);
      const batch = await intake.collect(rows);
      const digest = batchId === undefined ? undefined : batch.digest();
      const name = batchId ?? this.#options.clock.uuid();
      return writer.write(intake.name(batch, name, digest));
    });
  }

  async write(rows: AsyncIterable<Row> | Iterable<Row>): Promise<BatchCounts> {
    return this.#writeBy(async (intake) => {
      if (Symbol.iterator in rows) await pushAll(intake, rows);
      else await pushEach(intake, rows, (row) => intake.push(row));
    });
  }

  async writeBlocks(blocks: AsyncIterable<Iterable<Row>>): Promise<BatchCounts> {
    return this.#writeBy((intake) => pushEach(intake, blocks, (rows) => pushAll(intake, rows)));
  }

  #writeBy(push: (intake: SinkIntake<Row>) => Promise<void>): Promise<BatchCounts> {
    return this.#track(async () => {
      const intake = await this.#intake();
      try {
        await push(intake);
        return await intake.finish();
      } finally {
        await intake.settle();
      }
    });
  }

  writable(): SinkWritable {
    let intake: SinkIntake<Row> | undefined;
    const stream: Writable = new Writable({
      objectMode: true,
      highWaterMark: 256,
      construct: callbackify(async () => {
        intake = await this.#intake();
        // Nobody may be writing when a batch fails.
        intake.onFailure = (cause) => stream.destroy(asError(cause));
      }),
      write: callbackify((row: Row, _encoding: string) => pushAll(intake, [row])),
      writev: callbackify((chunks: readonly { readonly chunk: Row }[]) =>
        pushAll(
          intake,
          chunks.map(({ chunk }) => chunk),
        ),
      ),
      final: callbackify(async () => {
        await intake?.finish();
      }),
      destroy: callbackify(async (error: Error | null) => {
        await intake?.settle();
        if (error !== null) throw error;
      }),
    });
    const closed = async (): Promise<void> => {
      if (!stream.closed) await once(stream, "close").catch(() => undefined);
    };
    // A sink that is closed takes no rows.
    this.#track(closed).catch((error: unknown) => stream.destroy(asError(error)));
    return Object.defineProperty(stream, "counts", {
      get: () => intake?.counts ?? noCounts,
    }) as SinkWritable;
  }

  close(): Promise<void> {
    this.#closing ??= Promise.allSettled(this.#underWay).then(() => this.#own.end());
    return this.#closing;
  }

  async #track<T>(work: () => Promise<T>): Promise<T> {
    if (this.#closing !== undefined)
      throw new IdempotencyError("store_unavailable", { detail: "The sink was closed." });
    const running = work();
    this.#underWay.add(running);
    try {
      return await running;
    } finally {
      this.#underWay.delete(running);
    }
  }

  async #intake(): Promise<SinkIntake<Row>> {
    const { table, writer } = await this.#open();
    return new SinkIntake(this.#options, table, writer, this.#options.writers);
  }

  /** Reads the catalog once; a failure is not remembered. */
  async #open(): Promise<Opened<Row>> {
    this.#opening ??= this.#readPatiently();
    try {
      return await this.#opening;
    } catch (error) {
      this.#opening = undefined;
      throw error;
    }
  }

  /** A server that is being restarted is waited for here as it is by batches. */
  async #readPatiently(): Promise<Opened<Row>> {
    const { clock, retryForMs } = this.#options;
    const startedMs = clock.monotonicMs();
    for (let tries = 0; ; tries += 1) {
      try {
        return await this.#read();
      } catch (error) {
        if (error instanceof TypeError || isIdempotencyError(error) || isAnswered(error))
          throw error;
        const pauseMs = pauseAfter(tries, clock.random());
        if (clock.monotonicMs() - startedMs + pauseMs > retryForMs)
          throw new IdempotencyError("store_unavailable", { cause: error });
        await clock.sleep(pauseMs);
      }
    }
  }

  async #read(): Promise<Opened<Row>> {
    const { schema } = this.#options;
    await assertSchema({ pool: this.#own, schema });
    const table = await readTable(this.#own, this.#options);
    const writer = new BatchWriter(this.#options, this.#own, table);
    const write: BatchWriter<Row>["write"] = async (batch) => {
      const counts = await writer.write(batch).catch((error: unknown) => {
        // It has changed: whoever writes next gets what is there now.
        if (isIdempotencyError(error) && error.code === "table_unsuitable")
          this.#opening = undefined;
        throw error;
      });
      this.#reap();
      return counts;
    };
    return { table, writer: { write } };
  }

  /** Beside the batches, and now and then. What fails is tried again the next time. */
  #reap(): void {
    const { clock, schema, keepBatchesMs } = this.#options;
    const nowMs = clock.monotonicMs();
    if (nowMs - this.#reapedAtMs < reapEveryMs) return;
    this.#reapedAtMs = nowMs;
    const reaping = reapBatches({ pool: this.#own, schema, keepBatchesMs })
      .catch(() => undefined)
      .finally(() => this.#underWay.delete(reaping));
    this.#underWay.add(reaping);
  }
}

async function pushAll<Row extends object>(
  intake: SinkIntake<Row> | undefined,
  rows: Iterable<Row>,
): Promise<void> {
  for (const row of rows) {
    const wait = intake?.push(row);
    if (wait !== undefined) await wait;
  }
}

/** A batch that fails is told at once, also while the source has nothing to say. */
async function pushEach<Row extends object, Item>(
  intake: SinkIntake<Row>,
  items: AsyncIterable<Item>,
  push: (item: Item) => Promise<void> | undefined,
): Promise<void> {
  const iterator = items[Symbol.asyncIterator]();
  const next = (): Promise<IteratorResult<Item>> =>
    new Promise((resolve, reject) => {
      intake.onFailure = reject;
      iterator.next().then(resolve, reject);
    });
  let isDone = false;
  try {
    for (;;) {
      const result = await next();
      if (result.done === true) break;
      const wait = push(result.value);
      if (wait !== undefined) await wait;
    }
    isDone = true;
  } finally {
    // A generator that is waiting for its own source answers when that does; nobody waits for it here.
    if (!isDone) void iterator.return?.()?.catch(() => undefined);
  }
}

function asError(cause: unknown): Error {
  return cause instanceof Error ? cause : new Error("a batch failed", { cause });
}
