/**
 * Reads topics of Kafka into a sink, each message once. Owns: where each partition is read from. The position is stored in the
 * transaction of the rows and moves only from where this consumer believes it to be, so a consumer that has lost its partition
 * writes nothing. The group of Kafka spreads the partitions and decides nothing else.
 */
import type { Pool } from "pg";
import { z } from "zod";
import { systemClock } from "../core/clock.js";
import type { Clock } from "../core/clock.js";
import { IdempotencyError } from "../core/errors.js";
import { assertSchema } from "../stores/migrate.js";
import { ownRows } from "../stores/own-types.js";
import { statementsFor } from "../stores/sql-text.js";
import type { SinkRow } from "./description.js";
import { checkSource } from "./source-options.js";
import { BatchNotes, decodeAll, PlaceLost } from "./source-batch.js";
import type { Decoding, OpenSink, RunNote, SourceSink } from "./source-batch.js";

/** What is used of a message of `@platformatic/kafka`. */
export interface KafkaMessage {
  readonly topic: string;
  readonly partition: number;
  readonly offset: bigint;
}

interface KafkaStream<Message> extends AsyncIterable<Message> {
  close(): Promise<void>;
}

/** What is used of a `Consumer` of `@platformatic/kafka`. */
export interface KafkaConsumer<Message extends KafkaMessage> {
  readonly topics: { trackAll(...topics: string[]): unknown };
  listOffsets(options: { topics: string[]; timestamp: bigint }): Promise<Map<string, bigint[]>>;
  consume(options: {
    topics: string[];
    mode: "manual";
    fallbackMode: "earliest";
    offsets: { topic: string; partition: number; offset: bigint }[];
    autocommit: false;
  }): Promise<KafkaStream<Message>>;
  on(event: "consumer:group:join", listener: () => void): unknown;
  off(event: "consumer:group:join", listener: () => void): unknown;
}

export interface KafkaSourceOptions<
  Message extends KafkaMessage,
  Row extends object = SinkRow,
> extends Decoding<Message, Row> {
  /** Names the positions in the database; another name reads the topics anew. */
  readonly name: string;
  /** A consumer of `@platformatic/kafka`, with its group. It is used and never closed. */
  readonly consumer: KafkaConsumer<Message>;
  readonly topics: readonly string[];
  /** Opens the sink, whose pool has to be of the same database. */
  readonly sink: OpenSink<Row>;
  readonly pool: Pool;
  /** Schema of oncekey's own tables. Default `public`. */
  readonly schema?: string;
  /** Where partitions begin that were never read under this name. Default `earliest`. */
  readonly startAt?: "earliest" | "latest";
  /** Most messages of a batch. Default 5,000. */
  readonly batchMessages?: number;
  /** How long a batch that is not full waits for more, in ms. Default 200. */
  readonly batchMs?: number;
  /** For tests. */
  readonly clock?: Clock;
}

export interface Source {
  /**
   * Reads until the signal is aborted; what was read is stored then, or read again the next time. Rejects with the first fault that
   * trying again does not mend. A source runs once at a time.
   */
  run(options: { readonly signal: AbortSignal }): Promise<void>;
}

const shape = z.strictObject({
  consumer: z.custom(
    (value) => typeof (value as { consume?: unknown } | undefined)?.consume === "function",
    { error: "must be a Consumer of @platformatic/kafka" },
  ),
  topics: z.array(z.string().min(1)).min(1),
  startAt: z.enum(["earliest", "latest"]).optional(),
  batchMessages: z.number().int().min(1).max(100_000).optional(),
});

const timestamps = { latest: -1n, earliest: -2n };

/**
 * Makes a source that stores every message of some topics once, whatever crashes, and however the group is rebalanced.
 *
 * @throws `options_invalid` that lists every problem at once.
 */
export function kafkaSource<Message extends KafkaMessage, Row extends object = SinkRow>(
  options: KafkaSourceOptions<Message, Row>,
): Source {
  checkSource("kafkaSource", shape, options);
  return new Reading(options);
}

const partitionOf = ({ topic, partition }: Omit<KafkaMessage, "offset">): string =>
  `${topic}:${partition}`;

type Ending = "rebalanced" | "lost" | "stopped";

class Reading<Message extends KafkaMessage, Row extends object> implements Source {
  readonly #options: KafkaSourceOptions<Message, Row>;
  readonly #clock: Clock;
  readonly #statements: ReturnType<typeof statementsFor>;
  readonly #notes = new BatchNotes<Row>();

  constructor(options: KafkaSourceOptions<Message, Row>) {
    this.#options = options;
    this.#clock = options.clock ?? systemClock;
    this.#statements = statementsFor(options.schema ?? "public");
  }

  async run({ signal }: { readonly signal: AbortSignal }): Promise<void> {
    const { pool, schema, consumer, topics } = this.#options;
    await assertSchema({ pool, ...(schema === undefined ? {} : { schema }) });
    const sink = this.#options.sink(this.#notes.inTransaction);
    // Counted once more, a stream that is closed does not leave the group.
    consumer.topics.trackAll(...topics);
    const interrupts = new Interrupts();
    const onJoin = (): void => interrupts.say("rebalanced");
    const onAbort = (): void => interrupts.say("stopped");
    consumer.on("consumer:group:join", onJoin);
    signal.addEventListener("abort", onAbort, { once: true });
    let stream: KafkaStream<Message> | undefined;
    try {
      let ending: Ending = "rebalanced";
      while (ending !== "stopped" && !signal.aborted) {
        interrupts.clear();
        const positions = await this.#positions();
        const before = stream;
        stream = await consumer.consume({
          topics: [...topics],
          mode: "manual",
          fallbackMode: "earliest",
          offsets: [...positions.values()],
          autocommit: false,
        });
        await before?.close();
        ending = await this.#drain(stream, sink, positions, interrupts, signal);
      }
    } finally {
      consumer.off("consumer:group:join", onJoin);
      signal.removeEventListener("abort", onAbort);
      await stream?.close();
      await sink.close();
    }
  }

  /** Where every partition is read from; partitions that are new get their place in the database first. */
  async #positions(): Promise<Map<string, { topic: string; partition: number; offset: bigint }>> {
    const { consumer, topics, pool, name, startAt = "earliest" } = this.#options;
    const list = (timestamp: bigint): Promise<Map<string, bigint[]>> =>
      consumer.listOffsets({ topics: [...topics], timestamp });
    const earliest = await list(timestamps.earliest);
    const starts = startAt === "earliest" ? earliest : await list(timestamps.latest);
    const all = [...starts].flatMap(([topic, offsets]) =>
      offsets.map((offset, partition) => ({ topic, partition, offset })),
    );
    await pool.query(this.#statements["positions-start"].text, [
      name,
      all.map(({ topic }) => topic),
      all.map(({ partition }) => partition),
      all.map(({ offset }) => String(offset)),
    ]);
    const rows = await this.#read();
    const positions = new Map<string, { topic: string; partition: number; offset: bigint }>();
    for (const { topic, part, position } of rows) {
      const first = earliest.get(topic)?.[part];
      if (first === undefined) continue;
      const offset = BigInt(position);
      if (offset < first)
        throw new IdempotencyError("store_unavailable", {
          detail: `Kafka has deleted messages of ${topic}:${part} from ${offset} to ${first} before they were stored.`,
        });
      positions.set(`${topic}:${part}`, { topic, partition: part, offset });
    }
    return positions;
  }

  async #drain(
    stream: KafkaStream<Message>,
    sink: SourceSink<Row>,
    places: ReadonlyMap<string, { readonly offset: bigint }>,
    interrupts: Interrupts,
    signal: AbortSignal,
  ): Promise<Ending> {
    const { batchMessages = 5_000, batchMs = 200 } = this.#options;
    const positions = new Map([...places].map(([name, { offset }]) => [name, offset]));
    const iterator = stream[Symbol.asyncIterator]();
    const startTimer = (): (() => void) => this.#clock.after(batchMs, () => interrupts.say("due"));
    let next: Promise<IteratorResult<Message>> | undefined;
    let batch: Message[] = [];
    let stopTimer: () => void = () => undefined;
    try {
      for (;;) {
        if (signal.aborted) return "stopped";
        next ??= iterator.next();
        const event = await interrupts.during(next);
        if (event === "rebalanced" || event === "stopped" || event === "lost") return event;
        if (event !== "due") {
          next = undefined;
          if (event.done === true) return "rebalanced";
          const position = positions.get(partitionOf(event.value));
          // Of a partition that this stream was not opened for, or from before its position.
          if (position === undefined || event.value.offset < position) continue;
          batch.push(event.value);
          if (batch.length === 1) stopTimer = startTimer();
          if (batch.length < batchMessages) continue;
        }
        stopTimer();
        if (batch.length > 0) await this.#store(sink, batch, positions);
        batch = [];
      }
    } catch (error) {
      if (error instanceof PlaceLost) return "lost";
      throw error;
    } finally {
      stopTimer();
      next?.catch(() => undefined);
    }
  }

  async #store(
    sink: SourceSink<Row>,
    batch: readonly Message[],
    positions: Map<string, bigint>,
  ): Promise<void> {
    const { name, pool } = this.#options;
    const upto = new Map<string, { topic: string; partition: number; next: bigint }>();
    for (const message of batch) {
      const { topic, partition, offset } = message;
      upto.set(partitionOf(message), { topic, partition, next: offset + 1n });
    }
    const moves = [...upto];
    const values = [
      name,
      moves.map(([, { topic }]) => topic),
      moves.map(([, { partition }]) => partition),
      moves.map(([at]) => String(positions.get(at))),
      moves.map(([, { next }]) => String(next)),
    ];
    const move = async (run: RunNote): Promise<void> => {
      const moved = await run(this.#statements["positions-move"], values);
      if (moved !== moves.length) throw new PlaceLost();
    };
    const rows = await decodeAll(
      this.#options,
      batch.map((message) => ({ message, place: `${partitionOf(message)}@${message.offset}` })),
    );
    let isMoved = false;
    await this.#notes.write(sink, rows, this.#clock.uuid(), async (run) => {
      isMoved = true;
      await move(run);
    });
    // Of a batch of which nothing is left to store there is no transaction to move in.
    if (!isMoved || !(await this.#isPast(moves)))
      await move(async ({ text }, given) => (await pool.query(text, [...given])).rowCount ?? 0);
    for (const [at, { next }] of moves) positions.set(at, next);
  }

  /** How far the source has been read. */
  #read(): Promise<readonly { topic: string; part: number; position: string }[]> {
    const { pool, name } = this.#options;
    return ownRows(pool, this.#statements["positions-read"].text, [name]);
  }

  async #isPast(
    moves: readonly (readonly [string, { readonly next: bigint }])[],
  ): Promise<boolean> {
    const stored = new Map(
      (await this.#read()).map(({ topic, part, position }) => [
        `${topic}:${part}`,
        BigInt(position),
      ]),
    );
    return moves.every(([at, { next }]) => (stored.get(at) ?? 0n) >= next);
  }
}

/** Words that interrupt waiting. Racing promises instead would keep a callback for every message. */
class Interrupts {
  #said: Ending | "due" | undefined;
  #wake: () => void = () => undefined;

  /** That a batch is due must not hide that the stream is to end. */
  say(word: Ending | "due"): void {
    if (this.#said === undefined || this.#said === "due") this.#said = word;
    this.#wake();
  }

  clear(): void {
    this.#said = undefined;
  }

  /**
   * What is awaited, or the word that came before or meanwhile, once. A word that comes while the awaited is on its way to the
   * caller is still found: it is looked for last, and the caller asks for the same promise again.
   */
  async during<T>(awaited: Promise<T>): Promise<T | Ending | "due"> {
    let result: { readonly value: T } | undefined;
    if (this.#said === undefined)
      try {
        await new Promise<void>((resolve, reject) => {
          this.#wake = resolve;
          const take = (value: T): void => {
            result = { value };
            resolve();
          };
          awaited.then(take, reject);
        });
      } finally {
        this.#wake = () => undefined;
      }
    const said = this.#said;
    this.#said = undefined;
    if (said !== undefined) return said;
    if (result === undefined) throw new Error("woken without a word");
    return result.value;
  }
}
