/**
 * Reads a Redis stream into a sink, each entry once. Owns: noting entries in the transaction of their rows, and acknowledging them after it.
 * Must never acknowledge an entry that was not stored.
 */
import type { Cluster, Redis } from "ioredis";
import type { Pool } from "pg";
import { z } from "zod";
import { systemClock } from "../core/clock.js";
import type { Clock } from "../core/clock.js";
import { assertSchema } from "../stores/migrate.js";
import { ownRows } from "../stores/own-types.js";
import { statementsFor } from "../stores/sql-text.js";
import type { SinkRow } from "./description.js";
import type { Source } from "./kafka-source.js";
import { checkSource } from "./source-options.js";
import { BatchNotes, decodeAll, PlaceLost } from "./source-batch.js";
import type { Decoding, OpenSink, SourceSink } from "./source-batch.js";

export interface StreamEntry {
  readonly id: string;
  readonly fields: Readonly<Record<string, string>>;
}

export interface RedisStreamSourceOptions<Row extends object = SinkRow> extends Decoding<
  StreamEntry,
  Row
> {
  /** Names the stream's notes in the database. */
  readonly name: string;
  /** An ioredis `Redis` or `Cluster` of its own: reading blocks it. It is used and never ended. */
  readonly client: Redis | Cluster;
  readonly stream: string;
  /** The consumer group; made, from the stream's beginning, where it is not there. */
  readonly group: string;
  /** Names this process in the group; another for each process. */
  readonly consumer: string;
  readonly sink: OpenSink<Row>;
  readonly pool: Pool;
  /** Schema of oncekey's own tables. Default `public`. */
  readonly schema?: string;
  /** Most entries of a batch. Default 1,000. */
  readonly batchEntries?: number;
  /** How long one read waits for entries, in ms; a stop takes as long. Default 1,000. */
  readonly blockMs?: number;
  /** Entries that a consumer has held for this long without an acknowledgement are taken over, in ms. Default 60 s. */
  readonly takeOverAfterMs?: number;
  /** How long the database remembers entries, in ms; longer than any process can hold one. Default 7 days. */
  readonly keepEntriesMs?: number;
  /** For tests. */
  readonly clock?: Clock;
}

const shape = z.strictObject({
  client: z.custom(
    (value) => typeof (value as { xack?: unknown } | undefined)?.xack === "function",
    { error: "must be a client of ioredis" },
  ),
  stream: z.string().min(1),
  group: z.string().min(1),
  consumer: z.string().min(1),
  batchEntries: z.number().int().min(1).max(100_000).optional(),
  blockMs: z.number().int().min(1).max(60_000).optional(),
  takeOverAfterMs: z.number().int().min(1).optional(),
  keepEntriesMs: z.number().int().min(60_000).optional(),
});

type Reply = [id: string, fields: string[] | null][];

const day = 86_400_000;

/**
 * Makes a source that stores every entry of a stream once: what a dead consumer held is taken over, and what it had stored is
 * recognised by its note.
 *
 * @throws `options_invalid` that lists every problem at once.
 */
export function redisStreamSource<Row extends object = SinkRow>(
  options: RedisStreamSourceOptions<Row>,
): Source {
  checkSource("redisStreamSource", shape, options);
  return new Reading(options);
}

class Reading<Row extends object> implements Source {
  readonly #options: RedisStreamSourceOptions<Row>;
  readonly #clock: Clock;
  readonly #statements: ReturnType<typeof statementsFor>;
  readonly #notes = new BatchNotes<Row>();

  constructor(options: RedisStreamSourceOptions<Row>) {
    this.#options = options;
    this.#clock = options.clock ?? systemClock;
    this.#statements = statementsFor(options.schema ?? "public");
  }

  async run({ signal }: { readonly signal: AbortSignal }): Promise<void> {
    const { pool, schema, client, stream, group } = this.#options;
    await assertSchema({ pool, ...(schema === undefined ? {} : { schema }) });
    await client.xgroup("CREATE", stream, group, "0", "MKSTREAM").catch((error: unknown) => {
      if (!(error instanceof Error && error.message.startsWith("BUSYGROUP"))) throw error;
    });
    const sink = this.#options.sink(this.#notes.inTransaction);
    try {
      // What this consumer held when it died, first.
      await this.#readHeld(sink, signal);
      while (!signal.aborted) {
        await this.#takeOver(sink, signal);
        const entries = await this.#read(">");
        if (entries.length > 0) await this.#store(sink, entries);
        else await this.#reap();
      }
    } finally {
      await sink.close();
    }
  }

  async #readHeld(sink: SourceSink<Row>, signal: AbortSignal): Promise<void> {
    for (let after = "0"; !signal.aborted;) {
      const entries = await this.#read(after);
      const last = entries.at(-1);
      if (last === undefined) return;
      await this.#store(sink, entries);
      [after] = last;
    }
  }

  async #read(after: string): Promise<Reply> {
    const {
      client,
      group,
      consumer,
      stream,
      batchEntries = 1_000,
      blockMs = 1_000,
    } = this.#options;
    const replies = await client.xreadgroup(
      "GROUP",
      group,
      consumer,
      "COUNT",
      batchEntries,
      "BLOCK",
      blockMs,
      "STREAMS",
      stream,
      after,
    );
    return replies?.[0]?.[1] ?? [];
  }

  async #takeOver(sink: SourceSink<Row>, signal: AbortSignal): Promise<void> {
    const {
      client,
      group,
      consumer,
      stream,
      batchEntries = 1_000,
      takeOverAfterMs = 60_000,
    } = this.#options;
    for (let from = "0-0"; !signal.aborted;) {
      const [next, entries] = (await client.xautoclaim(
        stream,
        group,
        consumer,
        takeOverAfterMs,
        from,
        "COUNT",
        batchEntries,
      )) as [string, (Reply[number] | null)[]];
      // Redis 6.2 answers nil for entries that were trimmed; they are this consumer's now, and acknowledged when it starts next.
      const held = entries.filter((entry) => entry !== null);
      if (held.length > 0) await this.#store(sink, held);
      if (next === "0-0") return;
      from = next;
    }
  }

  /** Stores what is not stored yet, and acknowledges all. */
  async #store(sink: SourceSink<Row>, replies: Reply): Promise<void> {
    const { client, stream, group, name, pool } = this.#options;
    const ids = replies.map(([id]) => id);
    for (let isStored = false; !isStored;) {
      const find = this.#statements["entries-find"].text;
      const found = await ownRows<{ entry: string }>(pool, find, [name, ids]);
      const known = new Set(found.map(({ entry }) => entry));
      // Entries that were trimmed while somebody held them have no fields any more.
      const fresh = replies.filter(([id, fields]) => fields !== null && !known.has(id));
      isStored = fresh.length === 0 || (await this.#write(sink, fresh));
    }
    await client.xack(stream, group, ...ids);
  }

  /** False where another consumer stored one of the entries first. */
  async #write(sink: SourceSink<Row>, fresh: Reply): Promise<boolean> {
    const { pool, name } = this.#options;
    const ids = fresh.map(([id]) => id);
    const messages = fresh.map(([id, fields]) => ({
      message: { id, fields: recordOf(fields ?? []) },
      place: `${this.#options.stream} ${id}`,
    }));
    const rows = await decodeAll(this.#options, messages);
    const note = this.#statements["entries-note"];
    try {
      await this.#notes.write(sink, rows, this.#clock.uuid(), async (run) => {
        if ((await run(note, [name, ids])) !== ids.length) throw new PlaceLost();
      });
    } catch (error) {
      if (error instanceof PlaceLost) return false;
      throw error;
    }
    // Where nothing was left to store there was no transaction; a second note changes nothing.
    await pool.query(note.text, [name, ids]);
    return true;
  }

  async #reap(): Promise<void> {
    const { pool, keepEntriesMs = 7 * day } = this.#options;
    await pool.query(this.#statements["entries-reap"].text, [keepEntriesMs]);
  }
}

function recordOf(fields: readonly string[]): Readonly<Record<string, string>> {
  const entries: [string, string][] = [];
  for (let index = 0; index + 1 < fields.length; index += 2)
    entries.push([fields[index] ?? "", fields[index + 1] ?? ""]);
  return Object.fromEntries(entries);
}
