/** Sinks and tables for the tests of one file. */
import { upsertSink } from "../../src/pipeline.js";
import type { BatchCounts, UpsertSink, UpsertSinkOptions } from "../../src/pipeline.js";
import { migrate } from "../../src/stores/postgres.js";
import { useDatabase, type Database } from "../support/databases.js";

export type Row = Readonly<Record<string, unknown>>;

export type SinkBench = {
  readonly database: Omit<Database, "drop">;
  /** Closed after the test. */
  readonly open: (
    given: Omit<UpsertSinkOptions<Row>, "pool"> & Partial<Pick<UpsertSinkOptions<Row>, "pool">>,
  ) => UpsertSink<Row>;
  /** Creates a table of a new name. */
  readonly createTable: (columns: string) => Promise<string>;
  readonly rowsOf: (table: string) => Promise<unknown[]>;
};

export function useSinks(): SinkBench {
  const database = useDatabase({ prepare: (pool) => migrate({ pool }) });
  const sinks: UpsertSink<Row>[] = [];
  let tables = 0;
  afterEach(async () => {
    await Promise.all(sinks.splice(0).map((sink) => sink.close()));
  });
  return {
    database,
    open: (given) => {
      const sink = upsertSink<Row>({ pool: database.pool, ...given });
      sinks.push(sink);
      return sink;
    },
    createTable: async (columns) => {
      tables += 1;
      await database.pool.query(`CREATE TABLE t${tables} (${columns})`);
      return `t${tables}`;
    },
    rowsOf: async (table) =>
      (await database.pool.query(`SELECT * FROM ${table} t ORDER BY 1`)).rows as unknown[],
  };
}

export const counts = (
  inserted: number,
  updated: number,
  unchanged: number,
  duplicatesInBatch: number,
): BatchCounts => ({ inserted, updated, unchanged, duplicatesInBatch });
