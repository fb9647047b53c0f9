import { describeMerge } from "../pipeline/merge-rounds.js";
import { loadDriver } from "./load-driver.js";

interface Statement {
  readonly reader: boolean;
  all(...values: readonly string[]): Record<string, unknown>[];
  run(...values: readonly string[]): unknown;
}
const Sqlite = loadDriver("better-sqlite3") as new (path: string) => {
  prepare(text: string): Statement;
  close(): void;
};

describe("SQLite", () => {
  const database = new Sqlite(":memory:");
  afterAll(() => database.close());
  const run = async (text: string, values: readonly string[]) => {
    const statement = database.prepare(text);
    if (statement.reader) return statement.all(...values);
    statement.run(...values);
    return [];
  };

  let tables = 0;
  describeMerge({
    engine: () => ({ dialect: "sqlite", run }),
    makeTable: async () => {
      const table = `odd "name" ${(tables += 1)}`;
      const quoted = `"${table.replaceAll('"', '""')}"`;
      // SQLite has no exact decimals: amounts are kept as text.
      await run(
        `CREATE TABLE ${quoted} (id TEXT PRIMARY KEY, version INTEGER, merchant TEXT, amount TEXT, more INTEGER)`,
        [],
      );
      return table;
    },
    read: async (table) => {
      const rows = await run(
        `SELECT id || '|' || version || '|' || coalesce(merchant, '') || '|' || amount AS line FROM "${table.replaceAll('"', '""')}" ORDER BY id`,
        [],
      );
      return rows.map(({ line }) => String(line));
    },
  });
});
