/**
 * One run of a load: chunk after chunk into the sink. Owns: what has been done before, by the ledger's word; and that nothing is counted
 * which is not durable. Each chunk is a batch that is named after its place and its bytes, so that sending it again is harmless.
 */
import type { BadRow, BatchCounts } from "../pipeline.js";
import { CommandError, exitCodes } from "./exit.js";
import { batchIdOf, digestOf, maxChunkBytes, placeOf } from "./load-chunk.js";
import type { Chunk, ChunkLimits, ChunkPlace, LoadedRow } from "./load-chunk.js";
import type { Input } from "./load-input.js";
import type { Source } from "./load-source.js";

export interface BadRecord {
  readonly line: number;
  readonly column: string | undefined;
  readonly reason: string;
  readonly original: string;
}

export interface LoadTotals extends BatchCounts {
  readonly records: number;
  readonly bad: number;
  /** Records of `records` that an earlier run had loaded. */
  readonly earlier: number;
}

export interface RunOptions {
  readonly input: Input;
  readonly source: Source;
  readonly limits: ChunkLimits;
  readonly writers: number;
  readonly prefix: string;
  /** What the ledger knows of this load. */
  readonly known: ReadonlyMap<string, BatchCounts>;
  /** Writes the rows as one batch of this name. Rows that it does not take are given to `badRow`. */
  readonly write: (rows: readonly LoadedRow[], batchId: string) => Promise<BatchCounts>;
  /** Takes what cannot be stored, before the rest of its chunk is committed. */
  readonly onBad: (bad: BadRecord) => Promise<void>;
  readonly maxBadRows: number;
  readonly onProgress: (totals: LoadTotals) => void;
  readonly isStopped: () => boolean;
}

type KnownChunk = ChunkPlace & { readonly counts: BatchCounts };

export class LoadRun {
  readonly #options: RunOptions;
  readonly #known = new Map<number, KnownChunk[]>();
  readonly #writing = new Set<Promise<void>>();
  /** Those that are being written. */
  readonly #chunks = new Set<Chunk>();
  #failure: { readonly cause: unknown } | undefined;
  #totals: LoadTotals = {
    records: 0,
    bad: 0,
    earlier: 0,
    inserted: 0,
    updated: 0,
    unchanged: 0,
    duplicatesInBatch: 0,
  };
  /** Bad records, those of batches under way among them. */
  #badFound = 0;
  #unused = 0;

  constructor(options: RunOptions) {
    this.#options = options;
    for (const [batchId, counts] of options.known) {
      const place = placeOf(options.prefix, batchId);
      if (place === undefined) continue;
      const chunks = this.#known.get(place.start) ?? [];
      this.#known.set(place.start, [...chunks, { ...place, counts }]);
      this.#unused += 1;
    }
  }

  get totals(): LoadTotals {
    return this.#totals;
  }

  /** Batches of an earlier run whose bytes are not in the file any more. */
  get missing(): number {
    return this.#unused;
  }

  /** Resolves when the file is over, or it was stopped, and everything that was begun is durable. */
  async run(): Promise<"done" | "stopped"> {
    try {
      return await this.#run();
    } finally {
      await Promise.all(this.#writing);
      this.#check();
    }
  }

  async #run(): Promise<"done" | "stopped"> {
    const { source, limits, isStopped } = this.#options;
    for (let line = source.firstLine; !isStopped();) {
      const next = await this.#read(source, line, limits);
      // Reading that is stopped looks like the end of a file.
      if (isStopped()) break;
      if (next === undefined) return "done";
      line = next.nextLine;
      // The next one is cut while this one is written.
      if ("rows" in next) await this.#send(next);
    }
    return "stopped";
  }

  /** The next chunk, or the place of one that was loaded before; undefined at the end of the file. */
  async #read(
    source: Source,
    line: number,
    limits: ChunkLimits,
  ): Promise<Chunk | KnownChunk | undefined> {
    try {
      return (await this.#skip()) ?? (await source.cut(line, limits));
    } catch (error) {
      if (this.#options.isStopped()) return undefined;
      throw error;
    }
  }

  /** A chunk that was loaded before, whose bytes are still what they were. */
  async #skip(): Promise<KnownChunk | undefined> {
    const { tape } = this.#options.input;
    for (const chunk of this.#known.get(tape.position) ?? []) {
      const length = chunk.end - chunk.start;
      // One with a line of any length is read again, and the ledger knows it.
      if (length > 2 * maxChunkBytes) continue;
      const bytes = await tape.take(length);
      if (bytes.length === length && digestOf(bytes) === chunk.digest) {
        this.#count(chunk, chunk.counts, chunk.records);
        this.#badFound += chunk.records - sum(chunk.counts);
        this.#unused -= 1;
        return chunk;
      }
      tape.unread(bytes);
    }
    return undefined;
  }

  async #send(chunk: Chunk): Promise<void> {
    while (this.#writing.size >= this.#options.writers) await Promise.race(this.#writing);
    this.#check();
    const writing = this.#write(chunk).catch((cause: unknown) => {
      this.#failure ??= { cause };
    });
    const counted = writing.finally(() => this.#writing.delete(counted));
    this.#writing.add(counted);
  }

  async #write(chunk: Chunk): Promise<void> {
    const { write, prefix } = this.#options;
    this.#chunks.add(chunk);
    try {
      for (const fault of chunk.faults) await this.#bad(fault);
      this.#count(chunk, await write(chunk.rows, batchIdOf(prefix, chunk)), 0);
    } finally {
      this.#chunks.delete(chunk);
    }
  }

  /** Takes a row that cannot be stored, of any chunk that is being written. */
  async badRow({ row, rowNumber, column, reason }: BadRow<LoadedRow>): Promise<void> {
    const index = rowNumber - 1;
    const chunk = [...this.#chunks].find(({ rows }) => rows[index] === row);
    if (chunk === undefined) throw new Error("a row is of no chunk");
    const [line, original] = [chunk.lineOf(index), chunk.originalOf(index)];
    await this.#bad({ line, column, reason, original });
  }

  async #bad(bad: BadRecord): Promise<void> {
    const { maxBadRows, onBad } = this.#options;
    this.#badFound += 1;
    if (this.#badFound > maxBadRows) {
      const many =
        maxBadRows > 0 ? ` That is one more than the ${maxBadRows} that are allowed.` : "";
      throw new CommandError(exitCodes.failed, `Line ${bad.line}: ${bad.reason}${many}`);
    }
    await onBad(bad);
  }

  #count({ records }: ChunkPlace, counts: BatchCounts, earlier: number): void {
    const before = this.#totals;
    this.#totals = {
      records: before.records + records,
      bad: before.bad + records - sum(counts),
      earlier: before.earlier + earlier,
      inserted: before.inserted + counts.inserted,
      updated: before.updated + counts.updated,
      unchanged: before.unchanged + counts.unchanged,
      duplicatesInBatch: before.duplicatesInBatch + counts.duplicatesInBatch,
    };
    this.#options.onProgress(this.#totals);
  }

  #check(): void {
    if (this.#failure !== undefined) throw this.#failure.cause;
  }
}

/** All rows that were not set aside. */
function sum({ inserted, updated, unchanged, duplicatesInBatch }: BatchCounts): number {
  return inserted + updated + unchanged + duplicatesInBatch;
}
