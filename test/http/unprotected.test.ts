/** The kill switch: `dangerouslyRunWithoutStore`. */
import express from "express";
import pg from "pg";
import request from "supertest";

import { createIdempotency } from "../../src/index.js";
import type { IdempotencyEvent } from "../../src/index.js";
import { migrate, postgresStore } from "../../src/stores/postgres.js";
import { useDatabase } from "../support/databases.js";

const database = useDatabase({
  prepare: async (pool) => {
    await migrate({ pool });
    await pool.query("CREATE TABLE orders (note text)");
  },
});

function open(dangerouslyRunWithoutStore: boolean | (() => boolean), pool = database.pool) {
  const events: IdempotencyEvent[] = [];
  const idempotent = createIdempotency({
    store: postgresStore({ pool }),
    scope: "global",
    workers: false,
    dangerouslyRunWithoutStore,
    hooks: { onEvent: (event) => void events.push(event) },
  });
  let runs = 0;
  const api = express();
  api.use(express.json());
  api.post("/plain", idempotent(), (req, res) => {
    runs += 1;
    res.status(201).json({ runs, downstream: req.idempotency?.downstreamKey("charge") });
  });
  api.post(
    "/transaction",
    idempotent.transaction(async (_req, res, tx) => {
      runs += 1;
      await tx.query("INSERT INTO orders VALUES ('unprotected')");
      if (runs === 2) throw new Error("broken");
      res.status(201).json({ runs });
    }),
  );
  api.use(((error: { code?: string }, _req, res, _next) => {
    res.status(500).json({ code: error.code });
  }) satisfies express.ErrorRequestHandler);
  const post = (path: string, key?: string) => {
    const call = request(api).post(path).send({ amount: 1 });
    return key === undefined ? call : call.set("Idempotency-Key", key);
  };
  const unprotected = (): number => events.filter(({ type }) => type === "unprotected").length;
  return { idempotent, post, unprotected };
}

test("a plain route runs each time, without Postgres, and says so", async () => {
  const nowhere = new pg.Pool({ connectionString: "postgres://nobody@127.0.0.1:1/none" });
  const { idempotent, post, unprotected } = open(true, nowhere);
  const warn = jest.spyOn(process, "emitWarning").mockImplementation(() => undefined);
  const first = await post("/plain", "same");
  const second = await post("/plain", "same");
  const warnings = [...warn.mock.calls];
  warn.mockRestore();
  expect([first.status, first.body.runs, second.body.runs]).toEqual([201, 1, 2]);
  expect(first.headers["idempotency-stored"]).toBe("false");
  expect(first.headers["idempotency-key"]).toBe("same");
  expect(first.headers["idempotent-replayed"]).toBeUndefined();
  // What takes a downstream key is still called once.
  expect(first.body.downstream).toMatch(/^[\w-]{20,}$/);
  expect(second.body.downstream).toBe(first.body.downstream);
  expect(unprotected()).toBe(2);
  const kind = { type: "OncekeyWarning", code: "ONCEKEY_UNPROTECTED" };
  expect(warnings).toEqual([[expect.stringContaining("dangerouslyRunWithoutStore is on"), kind]]);
  await idempotent.close();
  await nowhere.end();
});

test("keys are still read and validated, and requests without one are as ever", async () => {
  const { idempotent, post, unprotected } = open(true);
  const invalid = await post("/plain", "x".repeat(256));
  expect([invalid.status, invalid.body.code]).toEqual([400, "key_invalid"]);
  const unkeyed = await post("/plain");
  expect([unkeyed.status, unkeyed.headers["idempotency-stored"]]).toEqual([201, undefined]);
  expect(unprotected()).toBe(0);
  await idempotent.close();
});

test("a transaction route gets a transaction without a key", async () => {
  const { idempotent, post, unprotected } = open(true);
  const count = async () => (await database.pool.query("SELECT FROM orders")).rowCount;
  const first = await post("/transaction", "tx");
  expect([first.status, first.headers["idempotency-stored"]]).toEqual([201, "false"]);
  await post("/transaction", "tx").expect(500);
  expect(await count()).toBe(1);
  await post("/transaction", "tx").expect(201, { runs: 3 });
  expect(await count()).toBe(2);
  expect((await database.pool.query("SELECT FROM idempotency_keys")).rowCount).toBe(0);
  expect(unprotected()).toBe(3);
  await idempotent.close();
});

test("a function is asked at every request, and only true is on", async () => {
  let isOn: unknown = "false";
  const { idempotent, post, unprotected } = open(() => isOn as boolean);
  await post("/plain", "switched").expect(201);
  expect((await post("/plain", "switched")).headers["idempotent-replayed"]).toBe("true");
  isOn = true;
  const through = await post("/plain", "switched");
  expect([through.body.runs, through.headers["idempotency-stored"]]).toEqual([2, "false"]);
  isOn = false;
  const back = await post("/plain", "switched");
  expect([back.body.runs, back.headers["idempotent-replayed"]]).toEqual([1, "true"]);
  expect(unprotected()).toBe(1);
  await idempotent.close();
});
