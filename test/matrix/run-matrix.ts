/** Runs every row of one framework on every store, over real sockets. */
import { randomUUID } from "node:crypto";

import { migrate } from "../../src/stores/postgres.js";
import { createDatabase, type Database } from "../support/databases.js";
import { caseNames, type Case, type CaseName } from "./cases.js";
import { expectAsTheAppAlone, expectOwnHeaders, expectReplayOf } from "./compare.js";
import {
  forgotten,
  pathOf,
  rowOf,
  Runs,
  type Framework,
  type Mount,
  type RunningApp,
} from "./framework.js";
import { onlyAnswer, untilSettled, type Drive } from "./outcomes.js";
import { openProcesses, storeNames, type Process } from "./stores.js";
import {
  effectsTable,
  transactionRowNames,
  transactionRows,
  transactionStores,
} from "./transactions.js";
import { exchange, requestBytes, valueOf } from "./wire.js";

export function runMatrix(framework: Framework): void {
  let database: Database;
  const runs = new Runs();
  const apps: RunningApp[] = [];
  let processes: readonly Process[] = [];

  beforeAll(async () => {
    database = await createDatabase({
      prepare: async (pool) => {
        await migrate({ pool });
        await pool.query(effectsTable);
      },
    });
    processes = await openProcesses(database.pool);
    for (const process of processes) apps.push(await framework.start(process, runs));
  });
  afterAll(async () => {
    for (const app of apps) await app.close();
    for (const process of processes) await process.close();
    await database.drop();
  });

  const driveOf = (name: CaseName, mount: Mount): Drive => {
    const { status = 200, request } = rowOf(framework, name);
    const key = `${name}-${randomUUID()}`;
    const path = pathOf(mount, name);
    const ports = { first: apps[0]?.port ?? 0, second: apps[1]?.port ?? 0 };
    const bytes = requestBytes(path, key, request);
    return {
      key,
      status,
      ports,
      bare: () => exchange(ports.first, requestBytes(pathOf("bare", name), `bare-${key}`, request)),
      first: () => exchange(ports.first, bytes),
      retry: () => untilSettled(ports.second, bytes),
      retryOnce: () => exchange(ports.second, bytes),
      withHeaders: (headers) => exchange(ports.first, requestBytes(path, key, { headers })),
      request: (otherKey, connection) => requestBytes(path, otherKey, request, connection),
      runs: (otherKey = key) => runs.of(otherKey),
    };
  };

  test("every row is handled or has a reason", () => {
    expect(forgotten(framework)).toEqual([]);
  });

  const rows = caseNames.filter((name) => framework.handles.has(name));
  test.each(rows)("%s", async (name) => {
    const row = rowOf(framework, name);
    await Promise.all(
      storeNames.map((store) => {
        const drive = driveOf(name, store);
        return row.outcome === undefined ? checkReplay(row, drive) : row.outcome.check(drive);
      }),
    );
  });

  const transactions = transactionRowNames.filter((name) => framework.handles.has(name));
  test.each(transactions)("%s, on a transaction route", async (name) => {
    const row = rowOf(framework, name);
    await Promise.all(
      transactionStores.map(async (store) => {
        const drive = driveOf(name, `transaction-${store}`);
        const isCommitted = transactionRows[name] === "committed";
        await (isCommitted ? checkReplay(row, drive) : checkRollback(drive));
        const { rows: effects } = await database.pool.query("SELECT FROM effects WHERE key = $1", [
          drive.key,
        ]);
        expect(effects).toHaveLength(isCommitted ? 1 : 0);
      }),
    );
  });
}

/** Nothing has happened: the client gets what the app alone would answer, and a retry runs again. */
async function checkRollback(drive: Drive): Promise<void> {
  const bare = onlyAnswer(await drive.bare());
  expect(bare.status).toBe(drive.status);
  for (const again of [await drive.first(), await drive.retry()]) {
    const answer = onlyAnswer(again);
    expect(answer.status).toBe(bare.status);
    expect(answer.body.equals(bare.body)).toBe(true);
    expect(valueOf(answer.headers, "idempotent-replayed")).toBeUndefined();
  }
  expect(drive.runs()).toBe(2);
}

/** The first answer is what the app alone sends; both processes replay it, and the handler has run once. */
async function checkReplay(row: Case, drive: Drive): Promise<void> {
  const bare = onlyAnswer(await drive.bare());
  const first = onlyAnswer(await drive.first());
  expect({ bare: bare.status, isComplete: bare.isComplete }).toEqual({
    bare: drive.status,
    isComplete: true,
  });
  expectAsTheAppAlone(first, bare, row);
  expectOwnHeaders(first, drive.key, false);
  for (const replay of [onlyAnswer(await drive.retry()), onlyAnswer(await drive.first())]) {
    expectOwnHeaders(replay, drive.key, true);
    expectReplayOf(first, replay);
  }
  expect(drive.runs()).toBe(1);
}
