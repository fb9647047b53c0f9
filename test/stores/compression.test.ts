/** How large responses lie in Postgres: compressed by lz4 where the server knows it, and the same bytes when read. */
import { randomBytes } from "node:crypto";

import { postgresStore } from "../../src/stores/postgres.js";
import { claimed, newRef, newRequest, useMigratedDatabase, windows } from "./open-stores.js";

const database = useMigratedDatabase();

test("a large response is compressed by the fastest means that the server has", async () => {
  const { rows: known } = await database.pool.query<{ best: string }>(
    `SELECT CASE WHEN 'lz4' = ANY (enumvals) THEN 'lz4' ELSE 'pglz' END AS best
       FROM pg_settings WHERE name = 'default_toast_compression'`,
  );
  const store = postgresStore({ pool: database.pool });
  const ref = newRef();
  const body = Buffer.from(randomBytes(50).toString("hex").repeat(200));
  const claim = await claimed(store.claim(newRequest(ref)));
  await store.complete(claim, { response: { status: 201, headers: [], body }, ...windows });

  const { rows } = await database.pool.query(
    "SELECT pg_column_compression(body) AS by, pg_column_size(body) < length(body) / 4 AS small FROM idempotency_keys",
  );
  expect(rows).toEqual([{ by: known[0]?.best, small: true }]);
  expect((await store.find(ref))?.record.response?.body).toEqual(body);
  await store.close();
});
