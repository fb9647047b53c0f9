import { DataSource, EntitySchema } from "typeorm";
import type { EntityManager } from "typeorm";

import { typeormTransactions } from "../../src/stores/adapters/typeorm.js";
import { adapterSuite } from "./suite.js";

interface Order {
  id: number;
  note: string;
}

const orders = new EntitySchema<Order>({
  name: "orders",
  columns: { id: { type: Number, primary: true, generated: true }, note: { type: String } },
});

adapterSuite<EntityManager>({
  open: async (url) => {
    const dataSource = new DataSource({ type: "postgres", url, entities: [orders] });
    await dataSource.initialize();
    return { using: typeormTransactions(dataSource), close: () => dataSource.destroy() };
  },
  insert: async (tx, note) => (await tx.save(orders, { note })).id,
  touch: (tx, note) => tx.update(orders, { note }, { note }),
  run: async (tx, statement) => {
    const rows: unknown = await tx.query(statement);
    return rows as Record<string, unknown>[];
  },
  afterEnd: /released/,
});
