import { Kysely, PostgresDialect, sql } from "kysely";
import type { Generated, KyselyPlugin, Transaction } from "kysely";
import pg from "pg";

import { kyselyTransactions } from "../../src/stores/adapters/kysely.js";
import { adapterSuite } from "./suite.js";

interface Tables {
  orders: { id: Generated<number>; note: string };
}

/** Renames all that statements return, as plugins may. */
const renaming: KyselyPlugin = {
  transformQuery: ({ node }) => node,
  transformResult: ({ result }) => {
    const rows = result.rows.map((row) =>
      Object.fromEntries(Object.entries(row).map(([name, value]) => [`my ${name}`, value])),
    );
    return Promise.resolve({ ...result, rows });
  },
};

adapterSuite<Transaction<Tables>>({
  open: (url) => {
    const pool = new pg.Pool({ connectionString: url });
    pool.on("error", () => undefined);
    const dialect = new PostgresDialect({ pool });
    const db = new Kysely<Tables>({ dialect, plugins: [renaming] });
    return { using: kyselyTransactions(db, { pool }), close: () => db.destroy() };
  },
  insert: async (tx, note) => {
    const inserted = tx.insertInto("orders").values({ note }).returning("id");
    const row: object = await inserted.executeTakeFirstOrThrow();
    return (row as { "my id": number })["my id"];
  },
  touch: (tx, note) =>
    tx.updateTable("orders").set({ note }).where("note", "=", note).executeTakeFirstOrThrow(),
  run: async (tx, statement) =>
    (await sql.raw<Record<string, unknown>>(statement).execute(tx.withoutPlugins())).rows,
  afterEnd: /already committed/,
});
