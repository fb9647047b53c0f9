/** Several stores, each with a schema of its own, on one pool: a connection that one has used is the other's next. */
import pg from "pg";

import { migrate, postgresStore } from "../../src/stores/postgres.js";
import { useDatabase } from "../support/databases.js";
import { claimed, created, newRef, newRequest, windows } from "./open-stores.js";

const database = useDatabase();
const schemas = ["public", "Größe", "shop"];
const completion = { response: created, ...windows };
const limits = { timeoutMs: 10_000 };

test("transactions of all of them run on the same connection", async () => {
  const pool = new pg.Pool({ connectionString: database.url, max: 1 });
  const stores = [];
  for (const schema of schemas) {
    await pool.query(`CREATE SCHEMA IF NOT EXISTS "${schema}"`);
    await migrate({ pool, schema });
    stores.push(postgresStore({ pool, schema }));
  }
  const ref = newRef();
  for (const store of [...stores, ...stores]) {
    const begun = await store.transactions?.claim(newRequest(ref), limits);
    if (begun?.kind === "exists") continue;
    if (begun?.kind !== "claimed") throw new Error("claimed was expected");
    const ended = await begun.open.complete(begun.claim, completion);
    expect(ended.kind).toBe("committed");
  }
  for (const [index, store] of stores.entries()) {
    expect((await store.find(ref))?.record.state).toBe("completed");
    const { rows } = await pool.query(
      `SELECT count(*)::int AS keys FROM "${schemas[index]}".idempotency_keys`,
    );
    expect(rows).toEqual([{ keys: 1 }]);
    await claimed(store.claim(newRequest(newRef())));
    await store.close();
  }
  await pool.end();
});
