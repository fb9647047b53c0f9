/**
 * The pipeline: clicks into a table by their keys, and a report of each merchant's days that is computed anew where clicks have
 * come, and never added to.
 */
import type pg from "pg";
import { aggregateWorker, recomputeAggregate, upsertSink } from "../../src/pipeline.js";
import type { BatchCounts } from "../../src/pipeline.js";
import { migrate } from "../../src/stores/postgres.js";
import type { Click, Report } from "./clicks.js";

/** A schema of its own, so that it is in nobody's way. It is dropped first. */
const schema = "ads_example";

export interface Pipeline {
  /** Takes every click that comes; resolves when all are stored. */
  store(clicks: Iterable<Click>): Promise<BatchCounts>;
  /** The report as it is now. */
  report(): Promise<Report>;
  /** Computes what is marked, until nothing is, and closes. */
  finish(): Promise<void>;
}

export async function openPipeline(pool: pg.Pool): Promise<Pipeline> {
  await pool.query(`DROP SCHEMA IF EXISTS ${schema} CASCADE`);
  await migrate({ pool, schema });
  await pool.query(`
    CREATE TABLE ${schema}.clicks (event_id text COLLATE "C" PRIMARY KEY, merchant_id text NOT NULL, price bigint NOT NULL,
      clicked_at timestamptz NOT NULL, version int NOT NULL);
    CREATE INDEX ON ${schema}.clicks (merchant_id, clicked_at);
    CREATE TABLE ${schema}.report (merchant_id text, day date, clicks bigint NOT NULL, revenue bigint NOT NULL,
      PRIMARY KEY (merchant_id, day))`);
  const sink = upsertSink<Click>({
    pool,
    schema,
    table: `${schema}.clicks`,
    key: "event_id",
    columns: ["event_id", "merchant_id", "price", "clicked_at", "version"],
    onDuplicate: "overwrite",
    version: "version",
  });
  const aggregate = recomputeAggregate({
    pool,
    schema,
    source: `${schema}.clicks`,
    target: `${schema}.report`,
    key: ["merchant_id"],
    day: { column: "day", of: "clicked_at" },
    values: { clicks: "count(*)", revenue: "sum(price)" },
  });
  await aggregate.prepare();
  const worker = aggregateWorker({ aggregates: [aggregate], pollMs: 200 });
  worker.start();
  return {
    store: (clicks) => sink.write(clicks),
    report: async () => {
      const { rows } = await pool.query<{ key: string; clicks: string; revenue: string }>(
        `SELECT concat(merchant_id, ' ', day) AS key, clicks, revenue FROM ${schema}.report`,
      );
      return new Map(
        rows.map(({ key, clicks, revenue }) => [
          key,
          { clicks: Number(clicks), revenue: Number(revenue) },
        ]),
      );
    },
    finish: async () => {
      await sink.close();
      await worker.stop();
      while ((await aggregate.recomputeMarked()).hasMore);
    },
  };
}
