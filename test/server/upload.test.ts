/** An upload against a Postgres of its own: its pace, and what ends it. What the routes answer is for the tests with a server. */
import { setTimeout as pause } from "node:timers/promises";

import { type EventBooks, openEventBooks } from "../../src/server/events.js";
import { eventTables } from "../../src/server/event-ledger.js";
import { runUpload, type UploadSummary } from "../../src/server/upload.js";
import { migrate } from "../../src/stores/migrate.js";
import { createDatabase, type Database } from "../support/databases.js";
import { waitForLockWaits } from "../support/lock-waits.js";

const linesOfPiece = 1_000;

let database: Database;
let books: EventBooks;
beforeEach(async () => {
  database = await createDatabase({
    prepare: async (pool) => {
      await migrate({ pool });
      await pool.query(eventTables);
    },
  });
  const { pool } = database;
  books = openEventBooks({ pool, pooler: undefined, workers: false, onAggregate: () => undefined });
});
afterEach(async () => {
  await books.close();
  await database.drop();
});

/** Every event comes twice, a few lines apart. */
function piece(index: number): Buffer {
  const lines = Array.from({ length: linesOfPiece }, (_, at) => {
    const id = `order-${index}-${Math.floor(at / 8) * 4 + (at % 4)}-line`;
    return `{"event_id":"${id}","merchant_id":"m","amount":1,"currency":"eur","occurred_at":"2026-01-01T00:00:00Z"}\n`;
  });
  return Buffer.from(lines.join(""));
}

function begin(
  pieces: number,
  end?: Error,
): { pulled: () => number; summary: Promise<UploadSummary> } {
  let pulled = 0;
  async function* source(): AsyncGenerator<Uint8Array> {
    for (; pulled < pieces; pulled += 1) yield piece(pulled);
    if (end !== undefined) throw end;
  }
  const account = { id: "acct_a", livemode: false };
  const options = { source: source(), encoding: "identity", format: "ndjson", account } as const;
  return { pulled: () => pulled, summary: runUpload({ ...options, sink: books.sink }) };
}

async function stored(): Promise<number> {
  const { rows } = await database.pool.query("SELECT count(*)::int AS n FROM events");
  return rows[0].n as number;
}

test("a body is held back while its batches are written", async () => {
  const lock = await database.pool.connect();
  try {
    await lock.query("BEGIN; LOCK TABLE events IN EXCLUSIVE MODE");
    const pieces = 120;
    const { pulled, summary } = begin(pieces);
    await waitForLockWaits(database.pool, 2);
    await pause(300);
    // Two batches that are written, and two that are full behind them; not the whole body.
    expect(pulled()).toBeLessThan(pieces / 2);
    await lock.query("COMMIT");
    const half = (pieces * linesOfPiece) / 2;
    expect(await summary).toMatchObject({
      received: 2 * half,
      accepted: 2 * half,
      inserted: half,
      duplicates: half,
      rejected: 0,
    });
    expect(await stored()).toBe(half);
  } finally {
    lock.release();
  }
});

test("a body that breaks off ends the upload; what was stored stays, and is found again", async () => {
  const pieces = 40;
  await expect(begin(pieces, new Error("gone")).summary).rejects.toThrow("gone");
  const before = await stored();
  expect(before).toBeGreaterThan(0);
  const half = (pieces * linesOfPiece) / 2;
  expect(await begin(pieces).summary).toMatchObject({
    inserted: half - before,
    accepted: 2 * half,
  });
  expect(await stored()).toBe(half);
});

test("a batch that fails ends the upload", async () => {
  await begin(1).summary;
  await database.pool.query("ALTER TABLE events RENAME COLUMN amount TO amounts");
  await expect(begin(1).summary).rejects.toMatchObject({ code: "table_unsuitable" });
});
