/**
 * The story: a provider that ignores keys lost its reply, so that a checkout ended as `outcome_unknown` with its stock reserved.
 * The operator found no charge at the provider and said so: not executed. The key was given back as if nothing had been done,
 * recovery points included, and the retry reserved the stock a second time.
 *
 * For a request with finished steps, "not executed" is now said of the call that nobody knew of: it is made again, and the
 * request goes on from there.
 */
import express from "express";
import request from "supertest";

import { createIdempotency } from "../../src/index.js";
import { migrate, postgresStore } from "../../src/stores/postgres.js";
import { useDatabase } from "../support/databases.js";

const database = useDatabase({
  prepare: async (pool) => {
    await migrate({ pool });
    await pool.query("CREATE TABLE reserved (key text)");
  },
});
const settler = { by: "ada", why: "the provider knows no such charge" };

test.each([
  ["after a finished step", true],
  ["before any step was finished", false],
])("what an operator says was not executed, %s, is done once", async (when, reserves) => {
  const idempotent = createIdempotency({
    store: postgresStore({ pool: database.pool }),
    scope: "global",
    workers: false,
  });
  let calls = 0;
  const app = express();
  app.use(express.json());
  app.post(
    "/checkouts",
    idempotent.steps("checkout", async ({ key }, steps) => {
      if (reserves) {
        await steps.transaction("reserve", (tx) =>
          tx.query("INSERT INTO reserved VALUES ($1)", [key]),
        );
      }
      const charge = async (): Promise<number> => {
        calls += 1;
        if (calls === 1) throw new Error("the reply was lost");
        return calls;
      };
      return { status: 201, body: [await steps.call("charge", charge, { repeatable: false })] };
    }),
  );
  const key = `not-executed ${when}`;
  const post = () => request(app).post("/checkouts").set("Idempotency-Key", key).send({});
  expect((await post()).body.code).toBe("outcome_unknown");
  const found = await idempotent.find({ scope: "global", key });
  expect(await idempotent.operations?.resolveNotExecuted(found!.record, settler)).toBe("ok");
  // Only once: the key is not as it was observed any more.
  expect(await idempotent.operations?.resolveNotExecuted(found!.record, settler)).toBe("refused");

  await post().expect(201, [2]);
  await post().expect(201, [2]);
  const reserved = await database.pool.query("SELECT FROM reserved WHERE key = $1", [key]);
  expect([reserved.rowCount, calls]).toEqual([reserves ? 1 : 0, 2]);
  const settled = await database.pool.query(
    "SELECT outcome, settled_by, why FROM idempotency_settlements WHERE key = $1",
    [key],
  );
  expect(settled.rows).toEqual([{ outcome: "not_executed", settled_by: "ada", why: settler.why }]);
  await idempotent.close();
});
