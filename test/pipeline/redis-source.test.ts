/** The Redis Streams source on a real Redis and a real Postgres: every entry once, whatever stops a consumer. */
import { Redis } from "ioredis";

import { redisStreamSource, upsertSink } from "../../src/pipeline.js";
import type { OpenSink, RedisStreamSourceOptions } from "../../src/pipeline.js";
import { migrate } from "../../src/stores/postgres.js";
import { useDatabase } from "../support/databases.js";
import { redisUrl } from "../support/servers.js";
import { waitFor } from "../support/wait-for.js";

type Event = { id: string; amount: number };

const database = useDatabase({
  prepare: async (pool) => {
    await migrate({ pool });
    await pool.query("CREATE TABLE events (id text PRIMARY KEY, amount integer)");
    // Without a key: an entry whose transaction commits twice is here twice.
    await pool.query("CREATE TABLE stored (id text)");
  },
});
const clients: Redis[] = [];
const client = (): Redis => {
  const made = new Redis(redisUrl(), { maxRetriesPerRequest: null });
  clients.push(made);
  return made;
};
let streams = 0;
let stream: string;
let producer: Redis;

beforeAll(() => {
  producer = client();
});
beforeEach(async () => {
  stream = `${database.name}:${(streams += 1)}`;
  await database.pool.query("TRUNCATE events, stored");
});
afterAll(async () => {
  for (let number = 1; number <= streams; number += 1)
    await producer.del(`${database.name}:${number}`);
  for (const one of clients) one.disconnect();
});

const sink: OpenSink<Event> = (note) =>
  upsertSink<Event>({
    table: "events",
    key: "id",
    columns: ["id", "amount"],
    onDuplicate: "overwrite",
    pool: database.pool,
    inTransaction: async (batch) => {
      await note(batch);
      await batch.query(`INSERT INTO stored SELECT id FROM ${batch.staged}`);
    },
  });

const open = (options: Partial<RedisStreamSourceOptions<Event>> = {}) =>
  redisStreamSource<Event>({
    name: stream,
    client: client(),
    stream,
    group: "group",
    consumer: "a",
    pool: database.pool,
    blockMs: 20,
    decode: ({ fields }) => JSON.parse(fields["event"] ?? "") as Event,
    sink,
    ...options,
  });

const produce = async (from: number, to: number): Promise<void> => {
  for (let number = from; number < to; number += 1)
    await producer.xadd(stream, "*", "event", JSON.stringify({ id: `e${number}`, amount: number }));
};
const stored = async (): Promise<{ rows: number; entries: number }> => {
  const { rows } = await database.pool.query<{ rows: number; entries: number }>(
    "SELECT (SELECT count(*)::int FROM events) AS rows, (SELECT count(*)::int FROM stored) AS entries",
  );
  return rows[0] as { rows: number; entries: number };
};
const pending = async (): Promise<unknown> => (await producer.xpending(stream, "group"))[0];
/** Runs until nothing is pending and the stream has been read to its end. */
const runUntilRead = async (...sources: ReturnType<typeof open>[]): Promise<void> => {
  const stop = new AbortController();
  const runs = sources.map((source) => source.run({ signal: stop.signal }));
  const isRead = async (): Promise<boolean> => {
    const groups = (await producer.xinfo("GROUPS", stream).catch(() => [])) as unknown[][];
    const group = groups[0];
    return group !== undefined && group[group.indexOf("lag") + 1] === 0 && (await pending()) === 0;
  };
  await Promise.race([
    waitFor(isRead, { timeoutMs: 60_000, what: "the stream to be read" }),
    ...runs,
  ]);
  stop.abort();
  await Promise.all(runs);
};

test("entries are stored and acknowledged; what cannot be decoded is told", async () => {
  await produce(0, 25);
  const bad = await producer.xadd(stream, "*", "event", "no JSON");
  const poison: string[] = [];
  await runUntilRead(open({ batchEntries: 10, onPoison: ({ place }) => void poison.push(place) }));
  expect(await stored()).toEqual({ rows: 25, entries: 25 });
  expect(poison).toEqual([`${stream} ${bad}`]);
});

test("without onPoison a poison message ends the run, and is not acknowledged", async () => {
  await producer.xadd(stream, "*", "event", "no JSON");
  await expect(open().run({ signal: new AbortController().signal })).rejects.toMatchObject({
    code: "row_invalid",
  });
  expect(await pending()).toBe(1);
  expect(await stored()).toEqual({ rows: 0, entries: 0 });
});

test("stopped between the commit and the acknowledgement: nothing is stored twice", async () => {
  await produce(0, 10);
  const stopsAfterCommit: OpenSink<Event> = (note) => {
    const inner = sink(note);
    return {
      writeBatch: async (rows, options) => {
        await inner.writeBatch(rows, options);
        throw new Error("the process dies here");
      },
      close: () => inner.close(),
    };
  };
  const dying = open({ sink: stopsAfterCommit });
  await expect(dying.run({ signal: new AbortController().signal })).rejects.toThrow("dies here");
  expect(await stored()).toEqual({ rows: 10, entries: 10 });
  expect(await pending()).toBe(10);
  await produce(10, 15);
  await runUntilRead(open());
  expect(await stored()).toEqual({ rows: 15, entries: 15 });
});

test("entries taken over from a consumer that is alive are stored by one of the two", async () => {
  await produce(0, 40);
  // Everything is taken over at once and always, so the two hold the same entries all the time.
  const options = { batchEntries: 7, takeOverAfterMs: 1 };
  await runUntilRead(open({ ...options, consumer: "a" }), open({ ...options, consumer: "b" }));
  expect(await stored()).toEqual({ rows: 40, entries: 40 });
});

test("entries that Redis 6.2 answers as nil, since they were trimmed, end nothing", async () => {
  await produce(0, 5);
  const reader = client();
  const claim = reader.xautoclaim.bind(reader) as (...given: unknown[]) => Promise<unknown[]>;
  // Later versions leave them out.
  reader.xautoclaim = async (...given: unknown[]) => {
    const [next, entries] = (await claim(...given)) as [string, unknown[]];
    return [next, [null, ...entries, null]];
  };
  await producer.xgroup("CREATE", stream, "group", "0");
  await producer.xreadgroup("GROUP", "group", "gone", "COUNT", 3, "STREAMS", stream, ">");
  await runUntilRead(open({ client: reader, takeOverAfterMs: 1 }));
  expect(await stored()).toEqual({ rows: 5, entries: 5 });
});

test("every problem of the options is reported at once", () => {
  expect(() => open({ name: "", client: {} as never, colour: 1 } as never)).toThrow(
    /^Options of redisStreamSource: client: must be a client of ioredis; name: .*; colour: is not an option\.$/,
  );
});
