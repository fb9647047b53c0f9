import type { ExtractTablesWithRelations } from "drizzle-orm";
import { eq, sql } from "drizzle-orm";
import { drizzle } from "drizzle-orm/node-postgres";
import type { NodePgDatabase, NodePgQueryResultHKT } from "drizzle-orm/node-postgres";
import { pgTable, serial, text } from "drizzle-orm/pg-core";
import type { PgTransaction } from "drizzle-orm/pg-core";
import pg from "pg";

import { drizzleTransactions } from "../../src/stores/adapters/drizzle.js";
import { adapterSuite } from "./suite.js";

const orders = pgTable("orders", { id: serial().primaryKey(), note: text().notNull() });
const schema = { orders };
type Schema = typeof schema;
type Tx = PgTransaction<NodePgQueryResultHKT, Schema, ExtractTablesWithRelations<Schema>>;

adapterSuite<Tx>({
  open: (url) => {
    const pool = new pg.Pool({ connectionString: url });
    pool.on("error", () => undefined);
    const db: NodePgDatabase<Schema> & { $client: pg.Pool } = drizzle(pool, { schema });
    return { using: drizzleTransactions(db), close: () => pool.end() };
  },
  insert: async (tx, note) => {
    const [row] = await tx.insert(orders).values({ note }).returning();
    return row?.id ?? 0;
  },
  touch: (tx, note) => tx.update(orders).set({ note }).where(eq(orders.note, note)),
  run: async (tx, statement) => (await tx.execute(sql.raw(statement))).rows,
});
