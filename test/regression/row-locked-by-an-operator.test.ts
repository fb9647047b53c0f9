/**
 * An operator looked at a key in a transaction, `SELECT … FOR UPDATE`, and went for coffee. The response of that key waited for
 * its row, and with it every response that had ended in the same moment: they are stored by one statement. After five seconds it
 * was cancelled, and all of them were tried again, together, with the same end; after ten their clients were told that nothing had
 * been stored.
 *
 * Only the locked key waits now.
 */
import express from "express";
import request from "supertest";

import { createIdempotency } from "../../src/index.js";
import { migrate, postgresStore } from "../../src/stores/postgres.js";
import { useDatabase } from "../support/databases.js";
import { waitFor } from "../support/wait-for.js";

const database = useDatabase({ prepare: (pool) => migrate({ pool }) });

test("a locked key keeps no other one from being answered", async () => {
  const idempotent = createIdempotency({
    store: postgresStore({ pool: database.pool }),
    scope: "global",
    workers: false,
  });
  let finish: () => void = () => undefined;
  const gate = new Promise<void>((resolve) => (finish = resolve));
  let running = 0;
  const app = express();
  app.use(express.json());
  app.post("/orders", idempotent(), async (_req, res) => {
    running += 1;
    await gate;
    res.status(201).json({ id: 1 });
  });
  const server = app.listen(0, "127.0.0.1");
  const post = (key: string) =>
    request(server)
      .post("/orders")
      .set("Idempotency-Key", key)
      .send({})
      .then(({ status, headers }) => [status, headers["idempotency-stored"]]);
  const others = Array.from({ length: 20 }, (_, index) => `order-${index}`);
  const lockedOne = post("order-7-locked");
  const answers = others.map(post);
  await waitFor(() => running === 21);

  const operator = await database.pool.connect();
  await operator.query("BEGIN");
  await operator.query("SELECT FROM idempotency_keys WHERE key = 'order-7-locked' FOR UPDATE");
  let isAnswered = false;
  void lockedOne.then(() => (isAnswered = true));
  const beganMs = performance.now();
  finish();
  expect(await Promise.all(answers)).toEqual(others.map(() => [201, undefined]));
  expect(performance.now() - beganMs).toBeLessThan(2_500);
  expect(isAnswered).toBe(false);

  await operator.query("ROLLBACK");
  operator.release();
  expect(await lockedOne).toEqual([201, undefined]);
  await new Promise((resolve) => server.close(resolve));
  await idempotent.close();
});
