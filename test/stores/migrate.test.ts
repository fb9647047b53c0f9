import pg from "pg";

import { isIdempotencyError } from "../../src/core/errors.js";
import type { CacheableStore } from "../../src/core/ports.js";
import { assertSchema, migrate, postgresStore } from "../../src/stores/postgres.js";
import { createDatabase, useDatabase } from "../support/databases.js";
import { claimed, created, leaseMs, newRef, newRequest, windows } from "./open-stores.js";

const empty = useDatabase();
const completion = { response: created, ...windows };
const limits = { timeoutMs: 10_000 };
const ref = newRef();

test("what is missing is named, with what to do", async () => {
  const bare = postgresStore({ pool: empty.pool });
  for (const attempt of [
    () => assertSchema({ pool: empty.pool }),
    () => assertSchema({ pool: empty.pool, schema: "nowhere" }),
    () => bare.check(),
    () => bare.claim(newRequest(ref)),
    () => bare.find(ref),
    () => bare.transactions?.claim(newRequest(ref), limits),
  ]) {
    const error: unknown = await Promise.resolve(attempt()).then(
      () => undefined,
      (reason: unknown) => reason,
    );
    expect(isIdempotencyError(error) && error.code).toBe("schema_missing");
    expect(isIdempotencyError(error) && error.help).toContain("npx oncekey migrate");
  }
  await bare.close();
});

test("a newer migration that was not applied is named", async () => {
  await migrate({ pool: empty.pool, schema: "older" });
  await assertSchema({ pool: empty.pool, schema: "older" });
  await empty.pool.query(`DELETE FROM older.idempotency_migrations WHERE name = '0001_init'`);
  await expect(assertSchema({ pool: empty.pool, schema: "older" })).rejects.toThrow("0001_init");
});

test("any schema will do, and shares nothing with another", async () => {
  const names = ['Odd "Schema; --', "plain"];
  const stores: CacheableStore[] = [];
  for (const schema of names) {
    await migrate({ pool: empty.pool, schema });
    stores.push(postgresStore({ pool: empty.pool, schema }));
  }
  for (const each of stores) {
    await each.check();
    const claim = await claimed(each.claim(newRequest(ref)));
    expect((await each.heartbeat([claim], leaseMs)).length).toBe(0);
    expect((await each.complete(claim, completion)).kind).toBe("ok");
    expect((await each.claim(newRequest(ref))).kind).toBe("exists");
  }
  const held = await stores[0]?.transactions?.claim(newRequest(newRef()), limits);
  if (held?.kind !== "claimed") throw new Error("claimed was expected");
  expect((await held.open.complete(held.claim, completion)).kind).toBe("committed");
  await Promise.all(stores.map((each) => each.close()));
});

test("eight processes migrate at once, whatever the isolation, and one of them does it", async () => {
  const fresh = await createDatabase();
  await fresh.pool.query(
    `ALTER DATABASE ${fresh.name} SET default_transaction_isolation = 'serializable'`,
  );
  const pools = Array.from(
    { length: 8 },
    () => new pg.Pool({ connectionString: fresh.url, max: 1 }),
  );
  const applied = await Promise.all(pools.map((pool) => migrate({ pool })));
  expect(applied.filter((names) => names.length > 0)).toHaveLength(1);
  await assertSchema({ pool: fresh.pool });
  const { rows } = await fresh.pool.query("SELECT FROM idempotency_meta");
  expect(rows).toHaveLength(1);
  await Promise.all(pools.map((pool) => pool.end()));
  await fresh.drop();
});

test("a name that Postgres would cut short is refused", () => {
  expect(() => postgresStore({ pool: empty.pool, schema: "s".repeat(64) })).toThrow(
    "1 to 63 bytes",
  );
});
