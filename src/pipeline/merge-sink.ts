/**
 * Keyed upserts by the MERGE of an engine that the user runs. Owns: making batches, setting bad rows aside, and trying again. Every
 * batch is one statement that can be repeated, so a lost answer and a crash at any point are settled by writing the same rows again.
 */
import { IdempotencyError } from "../core/errors.js";
import { pauseAfter } from "../core/retry.js";
import type { SinkRow } from "./description.js";
import { isConflictOf, readColumns } from "./merge-engine.js";
import type { DeltaEngine } from "./merge-engine.js";
import { resolveMerge } from "./merge-options.js";
import type { MergeSinkOptions, ResolvedMerge } from "./merge-options.js";
import { parquetBatch, parquetFaultOf } from "./merge-parquet.js";
import { faultOf, jsonBatch, jsonFaultOf } from "./merge-rows.js";
import type { MergeFault } from "./merge-rows.js";
import { deltaFault, deltaMergeSql, mergeSql } from "./merge-sql.js";
import type { ColumnTypes } from "./merge-sql.js";

/** What a merge sink has done. Engines differ in what they count, so it does not say which rows were new. */
export interface MergeCounts {
  /** Rows that were merged; those set aside are not among them. */
  readonly rows: number;
  readonly badRows: number;
  /** Statements that were committed. */
  readonly batches: number;
}

export interface MergeSink<Row extends object = SinkRow> {
  /**
   * Merges rows by one statement, and resolves when it is durable. After a failure the same rows may be written again: with a
   * `version`, or `ignore`, the table is then as if they had been written once.
   *
   * @throws `row_invalid`, `table_unsuitable`; `transaction_conflict` after `retryForMs`; what the engine's driver throws
   */
  writeBatch(rows: Iterable<Row>): Promise<MergeCounts>;
  /** Merges everything that is iterated, batch by batch, reading no further than the batch under way. */
  write(rows: AsyncIterable<Row> | Iterable<Row>): Promise<MergeCounts>;
}

const none: MergeCounts = { rows: 0, badRows: 0, batches: 0 };

/**
 * Makes a sink that keeps one row of each key on an engine of yours, from the description that `upsertSink` takes.
 *
 * @throws `options_invalid` that lists every problem at once.
 */
export function mergeSink<Row extends object = SinkRow>(
  given: MergeSinkOptions<Row>,
): MergeSink<Row> {
  return new Merging(resolveMerge(given));
}

class Merging<Row extends object> implements MergeSink<Row> {
  readonly #options: ResolvedMerge<Row>;
  #types: Promise<ColumnTypes> | undefined;

  constructor(options: ResolvedMerge<Row>) {
    this.#options = options;
  }

  writeBatch(rows: Iterable<Row>): Promise<MergeCounts> {
    return this.#merge([...rows], 0);
  }

  async write(rows: AsyncIterable<Row> | Iterable<Row>): Promise<MergeCounts> {
    let counts = none;
    let taken = 0;
    for await (const batch of this.#batches(rows)) {
      counts = plus(counts, await this.#merge(batch, taken));
      taken += batch.length;
    }
    return counts;
  }

  async *#batches(rows: AsyncIterable<Row> | Iterable<Row>): AsyncGenerator<Row[]> {
    const { batchRows, batchMs, clock } = this.#options;
    const iterator =
      Symbol.asyncIterator in rows ? rows[Symbol.asyncIterator]() : rows[Symbol.iterator]();
    let batch: Row[] = [];
    let stop: () => void = () => undefined;
    let due: Promise<undefined> | undefined;
    let next: Promise<IteratorResult<Row>> | undefined;
    let isDone = false;
    try {
      for (;;) {
        next ??= Promise.resolve(iterator.next());
        const result = due === undefined ? await next : await Promise.race([next, due]);
        if (result !== undefined) {
          next = undefined;
          if (result.done === true) break;
          batch.push(result.value);
          if (batch.length === 1 && batchMs !== undefined)
            due = new Promise((resolve) => (stop = clock.after(batchMs, () => resolve(undefined))));
          if (batch.length < batchRows) continue;
        }
        stop();
        due = undefined;
        yield batch;
        batch = [];
      }
      isDone = true;
      if (batch.length > 0) yield batch;
    } finally {
      stop();
      // A source that is waiting answers when it can; nobody waits for it here.
      next?.catch(() => undefined);
      if (!isDone) void Promise.resolve(iterator.return?.()).catch(() => undefined);
    }
  }

  async #merge(batch: readonly Row[], taken: number): Promise<MergeCounts> {
    const types = await this.#readTypes();
    const good: Row[] = [];
    for (const [index, row] of batch.entries()) {
      const fault = this.#faultOf(row, types);
      if (fault === undefined) good.push(row);
      else await this.#setAside(row, taken + index + 1, fault);
    }
    const badRows = batch.length - good.length;
    if (good.length === 0) return { ...none, badRows };
    const { engine, target } = this.#options;
    const rows = good as unknown as readonly SinkRow[];
    if (engine.dialect === "delta") await this.#mergeFile(engine, rows, types);
    else {
      const text = mergeSql(engine.dialect, target, types);
      await this.#run(text, [jsonBatch(engine.dialect, rows, target.columns)]);
    }
    return { rows: good.length, badRows, batches: 1 };
  }

  /** The file is gone before this resolves; a process that dies in between leaves it to the next one. */
  async #mergeFile(
    engine: DeltaEngine,
    rows: readonly SinkRow[],
    types: ColumnTypes,
  ): Promise<void> {
    const { target, clock, keepFilesMs } = this.#options;
    const bytes = parquetBatch(engine.writeParquet, rows, target.columns, types);
    const file = `oncekey-${clock.uuid()}.parquet`;
    const path = await engine.storage.write(file, bytes);
    try {
      await engine.storage.removeOlder(file, keepFilesMs);
      await this.#run(deltaMergeSql(target, types, path), []);
    } finally {
      await engine.storage.remove(file);
    }
  }

  async #run(text: string, values: readonly string[]): Promise<void> {
    const { engine, target, clock, retryForMs } = this.#options;
    const startedMs = clock.monotonicMs();
    for (let tries = 0; ; tries += 1) {
      try {
        await engine.run(text, values);
        return;
      } catch (cause) {
        if (cause instanceof Error && cause.message.includes(deltaFault))
          throw new IdempotencyError("row_invalid", {
            detail: "Spark cannot read a value of this batch as its column's type.",
            cause,
          });
        if (!(await isConflictOf(engine, target, cause))) throw cause;
        const pauseMs = pauseAfter(tries, clock.random());
        if (clock.monotonicMs() - startedMs + pauseMs > retryForMs)
          throw new IdempotencyError("transaction_conflict", { cause });
        await clock.sleep(pauseMs);
      }
    }
  }

  #faultOf(row: Row, types: ColumnTypes): MergeFault | undefined {
    const { engine, target } = this.#options;
    const plain = row as unknown as SinkRow;
    return (
      faultOf(plain, target) ??
      (engine.dialect === "delta"
        ? parquetFaultOf(plain, target.columns, types)
        : jsonFaultOf(plain, target.columns))
    );
  }

  async #setAside(row: Row, rowNumber: number, { column, problem }: MergeFault): Promise<void> {
    const { onBadRow, target } = this.#options;
    const reason = `${column} ${problem}.`;
    if (onBadRow === undefined)
      throw new IdempotencyError("row_invalid", { detail: `Row ${rowNumber}: ${reason}` });
    const plain = row as unknown as SinkRow;
    const key = Object.fromEntries(target.key.map((name) => [name, plain[name]]));
    await onBadRow({ row, rowNumber, key, column, reason });
  }

  /** Read once; a failure is not remembered. */
  async #readTypes(): Promise<ColumnTypes> {
    const { engine, target } = this.#options;
    this.#types ??= readColumns(engine, target);
    try {
      return await this.#types;
    } catch (error) {
      this.#types = undefined;
      throw error;
    }
  }
}

function plus(a: MergeCounts, b: MergeCounts): MergeCounts {
  return { rows: a.rows + b.rows, badRows: a.badRows + b.badRows, batches: a.batches + b.batches };
}
