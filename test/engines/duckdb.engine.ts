import { describeMerge } from "../pipeline/merge-rounds.js";
import { loadDriver } from "./load-driver.js";

interface Connection {
  runAndReadAll(
    text: string,
    values: unknown[],
  ): Promise<{ getRowObjects(): Record<string, unknown>[] }>;
  closeSync(): void;
}
const { DuckDBInstance } = loadDriver("@duckdb/node-api") as {
  DuckDBInstance: { create(path: string): Promise<{ connect(): Promise<Connection> }> };
};

describe("DuckDB", () => {
  let connection: Connection;
  let instance: { connect(): Promise<Connection> };
  const run = async (text: string, values: readonly string[]) => {
    const own = await instance.connect();
    try {
      return (await own.runAndReadAll(text, [...values])).getRowObjects();
    } finally {
      own.closeSync();
    }
  };
  beforeAll(async () => {
    instance = await DuckDBInstance.create(":memory:");
    connection = await instance.connect();
  });
  afterAll(() => connection.closeSync());

  let tables = 0;
  describeMerge({
    engine: () => ({ dialect: "duckdb", run }),
    makeTable: async () => {
      const table = `odd "name" ${(tables += 1)}`;
      const quoted = `"${table.replaceAll('"', '""')}"`;
      await run(
        `CREATE TABLE ${quoted} (id VARCHAR PRIMARY KEY, version BIGINT, merchant VARCHAR, amount DECIMAL(20, 2), more INTEGER)`,
        [],
      );
      return table;
    },
    read: async (table) => {
      const rows = await run(
        `SELECT concat_ws('|', id, version, coalesce(merchant, ''), amount) AS line FROM "${table.replaceAll('"', '""')}" ORDER BY id`,
        [],
      );
      return rows.map(({ line }) => String(line));
    },
  });
});
