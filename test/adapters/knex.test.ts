import knex from "knex";
import type { Knex } from "knex";

import { knexTransactions } from "../../src/stores/adapters/knex.js";
import { adapterSuite } from "./suite.js";

/** What users of snake_case columns have, by one package or another. */
function toCamelCase(response: unknown): unknown {
  const { rows } = response as { rows?: object[] };
  if (!Array.isArray(rows)) return response;
  const camel = (name: string): string =>
    name.replaceAll(/_(\w)/g, (_match, letter: string) => letter.toUpperCase());
  for (const [index, row] of rows.entries()) {
    rows[index] = Object.fromEntries(
      Object.entries(row).map(([name, value]) => [camel(name), value]),
    );
  }
  return response;
}

/** Knex prints each connection that a test has killed. */
const silent = { warn: () => undefined, error: () => undefined };

adapterSuite<Knex.Transaction>({
  open: (url) => {
    const db = knex({
      client: "pg",
      connection: url,
      postProcessResponse: toCamelCase,
      log: silent,
    });
    return { using: knexTransactions(db), close: () => db.destroy() };
  },
  insert: async (tx, note) => {
    const [row] = await tx<{ id: number; note: string }>("orders").insert({ note }).returning("id");
    return row?.id ?? 0;
  },
  touch: async (tx, note) => tx("orders").update({ note }).where({ note }),
  run: async (tx, statement) => (await tx.raw<{ rows: Record<string, unknown>[] }>(statement)).rows,
});
