/** The store's own pool, which a transaction route uses when it names nothing else. */
import type { PoolClient } from "pg";

import { adapterSuite } from "./suite.js";

adapterSuite<PoolClient>({
  open: () => ({ using: undefined, close: () => Promise.resolve() }),
  insert: async (tx, note) => {
    const sql = "INSERT INTO orders (note) VALUES ($1) RETURNING id";
    const { rows } = await tx.query<{ id: number }>(sql, [note]);
    return rows[0]?.id ?? 0;
  },
  touch: (tx, note) => tx.query("UPDATE orders SET note = note WHERE note = $1", [note]),
  run: async (tx, sql) => (await tx.query<Record<string, unknown>>(sql)).rows,
});
