/** The pace of an upload, held against a sink that answers when it is told to. What is stored is for the tests with a server. */
import { setImmediate as turn } from "node:timers/promises";

import type { BatchCounts } from "../../src/pipeline.js";
import type { EventRow } from "../../src/server/event-record.js";
import { type EventSink, runUpload, type UploadSummary } from "../../src/server/upload.js";

const linesOfPiece = 1_000;
const pieces = 60;

/** Every event comes twice, a few lines apart. */
function piece(index: number): Buffer {
  const lines = Array.from({ length: linesOfPiece }, (_, at) => {
    const id = `order-${index}-${Math.floor(at / 8) * 4 + (at % 4)}-line`;
    return `{"event_id":"${id}","merchant_id":"m","amount":1,"currency":"eur","occurred_at":"2026-01-01T00:00:00Z"}\n`;
  });
  return Buffer.from(lines.join(""));
}

type Waiting = { rows: readonly EventRow[]; answer(): void; fail(error: Error): void };

/** A sink whose batches wait for the test. */
function waitingSink(): { sink: EventSink; waiting: Waiting[] } {
  const waiting: Waiting[] = [];
  const sink: EventSink = {
    writeBatch: (rows) =>
      new Promise<BatchCounts>((resolve, reject) => {
        const leave = (): void => void waiting.splice(waiting.indexOf(entry), 1);
        const entry: Waiting = {
          rows,
          answer: () => {
            leave();
            const inserted = new Set(rows.map((row) => row.event_id)).size;
            const duplicatesInBatch = rows.length - inserted;
            resolve({ inserted, updated: 0, unchanged: 0, duplicatesInBatch });
          },
          fail: (error) => {
            leave();
            reject(error);
          },
        };
        waiting.push(entry);
      }),
  };
  return { sink, waiting };
}

function begin(sink: EventSink): { pulled: () => number; summary: Promise<UploadSummary> } {
  let pulled = 0;
  async function* source(): AsyncGenerator<Uint8Array> {
    for (let index = 0; index < pieces; index += 1) {
      pulled += 1;
      yield piece(index);
      // As a socket: what comes next comes in another turn.
      await turn();
    }
  }
  const account = { id: "acct_a", livemode: false };
  const options = { source: source(), encoding: "identity", format: "ndjson", account } as const;
  return { pulled: () => pulled, summary: runUpload({ ...options, sink }) };
}

function doneOf(work: Promise<unknown>): () => boolean {
  let isDone = false;
  void work.then(() => (isDone = true));
  return () => isDone;
}

async function turns(count: number): Promise<void> {
  for (let index = 0; index < count; index += 1) await turn();
}

test("a body is held back while its batches are written", async () => {
  const { sink, waiting } = waitingSink();
  const { pulled, summary } = begin(sink);
  await turns(4 * pieces);
  expect(waiting).toHaveLength(2);
  // Two batches that are written, and two that are full behind them; not the whole body.
  expect(pulled()).toBeLessThan(pieces / 2);
  const isDone = doneOf(summary);
  while (!isDone()) {
    waiting[0]?.answer();
    await turn();
  }
  const half = (pieces * linesOfPiece) / 2;
  expect(await summary).toMatchObject({ received: 2 * half, accepted: 2 * half, inserted: half });
});

test("an event that comes twice is never in two batches that are written at once", async () => {
  const { sink, waiting } = waitingSink();
  const { summary } = begin(sink);
  const isDone = doneOf(summary);
  let pairs = 0;
  const shared = new Set<string>();
  while (!isDone()) {
    await turns(30);
    const [first, second] = waiting;
    if (first !== undefined && second !== undefined) {
      pairs += 1;
      const ids = new Set(first.rows.map((row) => row.event_id));
      for (const { event_id: id } of second.rows) if (ids.has(id)) shared.add(id);
    }
    waiting[0]?.answer();
  }
  expect(pairs).toBeGreaterThan(3);
  expect([...shared]).toEqual([]);
});

test("a batch that fails ends the upload, behind the ones that are written", async () => {
  const { sink, waiting } = waitingSink();
  const { summary } = begin(sink);
  let failure: unknown;
  summary.catch((error: unknown) => (failure = error));
  await turns(4 * pieces);
  const [first, second] = [...waiting];
  first?.fail(new Error("no disk"));
  await turns(20);
  expect(failure).toBeUndefined();
  second?.answer();
  await turns(20);
  expect(failure).toEqual(new Error("no disk"));
  expect(waiting).toEqual([]);
});
