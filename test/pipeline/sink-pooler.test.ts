/** The sink behind PgBouncer in transaction mode: two sessions serve everybody, and change hands after every batch. */
import pg from "pg";

import { upsertSink } from "../../src/pipeline.js";
import { migrate } from "../../src/stores/postgres.js";
import { createDatabase, type Database } from "../support/databases.js";
import { describeWithPgBouncer, type PgBouncer, startPgBouncer } from "../support/pgbouncer.js";
import { type PostgresServer, startPostgres } from "../support/postgres-server.js";
import { startTcpProxy } from "../support/tcp-proxy.js";
import { counts } from "./sink-bench.js";

const pooler = "transaction" as const;
/** Defaults of a careless administrator, and a note of the settings under which each row of the table is written. */
const careless = `
  ALTER ROLE postgres SET synchronous_commit = off;
  ALTER ROLE postgres SET default_transaction_isolation = 'serializable';
  CREATE TABLE t (id int PRIMARY KEY, v text);
  CREATE TABLE seen (durable text, isolation text, timeout text);
  CREATE FUNCTION spy() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO seen VALUES (current_setting('synchronous_commit'), current_setting('transaction_isolation'),
      current_setting('statement_timeout'));
    RETURN NULL;
  END $$;
  CREATE TRIGGER spy AFTER INSERT ON t FOR EACH STATEMENT EXECUTE FUNCTION spy()`;

describeWithPgBouncer("PgBouncer in transaction mode", () => {
  let postgres: PostgresServer;
  let bouncer: PgBouncer;
  let database: Database;
  let pooled: pg.Pool;

  beforeAll(async () => {
    postgres = await startPostgres();
    database = await createDatabase({
      serverUrl: postgres.url,
      prepare: (pool) => migrate({ pool }),
    });
    await database.pool.query(careless);
    bouncer = await startPgBouncer({
      postgresPort: postgres.port,
      poolMode: "transaction",
      poolSize: 2,
    });
    pooled = new pg.Pool({ connectionString: bouncer.via(database.url) });
    pooled.on("error", () => undefined);
  });
  beforeEach(() => database.pool.query("TRUNCATE t, seen"));
  afterAll(async () => {
    await pooled?.end();
    await bouncer?.end();
    await database?.drop();
    await postgres?.end();
  });

  const sinkOf = (more: {
    table?: string;
    copyDirectly?: boolean;
    pool?: pg.Pool;
    writers?: number;
  }) =>
    upsertSink<{ id: number; v: string }>({
      pool: pooled,
      pooler,
      table: "t",
      key: "id",
      columns: ["id", "v"],
      onDuplicate: "overwrite",
      batchRows: 50,
      timeoutMs: 90_000,
      ...more,
    });

  test.each([{ copyDirectly: true }, { copyDirectly: false }])(
    "three sinks over two sessions write each key once, and leave nothing in a session: %p",
    async (way) => {
      const sinks = [1, 2, 3].map(() => sinkOf({ ...way, writers: 2 }));
      const rows = Array.from({ length: 1_000 }, (_, index) => ({
        id: (index * 7) % 600,
        v: `v${(index * 7) % 600}`,
      }));
      const all = await Promise.all(sinks.map((sink) => sink.write(rows)));
      await Promise.all(sinks.map((sink) => sink.close()));
      const sum = (name: "inserted" | "updated" | "unchanged" | "duplicatesInBatch"): number =>
        all.reduce((total, found) => total + found[name], 0);
      expect(sum("inserted")).toBe(600);
      expect(sum("updated")).toBe(0);
      expect(sum("unchanged") + sum("duplicatesInBatch")).toBe(2_400);
      const { rows: stored } = await database.pool.query(
        "SELECT count(*)::int AS n, count(*) FILTER (WHERE v = 'v' || id)::int AS right FROM t",
      );
      expect(stored).toEqual([{ n: 600, right: 600 }]);
      // Durable, and with the sink's own isolation and limit, whatever the role says.
      const { rows: seen } = await database.pool.query("SELECT DISTINCT * FROM seen");
      expect(seen).toEqual([{ durable: "on", isolation: "read committed", timeout: "90s" }]);
      // Both sessions, one after another and at once.
      for (let round = 0; round < 4; round += 1) {
        const clients = await Promise.all([pooled.connect(), pooled.connect()]);
        try {
          for (const client of clients) {
            await client.query("BEGIN");
            const { rows: left } = await client.query(
              `SELECT current_setting('synchronous_commit') AS durable, current_setting('enable_seqscan') AS scans,
                 current_setting('statement_timeout') AS timeout,
                 (SELECT count(*)::int FROM pg_class c WHERE c.relnamespace = pg_my_temp_schema()) AS temporary`,
            );
            expect(left).toEqual([{ durable: "off", scans: "on", timeout: "0", temporary: 0 }]);
          }
        } finally {
          await Promise.all(clients.map((client) => client.query("ROLLBACK")));
          for (const client of clients) client.release();
        }
      }
    },
  );

  test("a column of another type is seen, whatever session comes next", async () => {
    await database.pool.query("CREATE TABLE changing (id int PRIMARY KEY, v int)");
    const sink = sinkOf({ table: "changing" });
    try {
      expect(await sink.writeBatch([{ id: 1, v: "1" }])).toEqual(counts(1, 0, 0, 0));
      await database.pool.query("ALTER TABLE changing ALTER COLUMN v TYPE real");
      await expect(sink.writeBatch([{ id: 2, v: "2" }])).rejects.toMatchObject({
        code: "table_unsuitable",
      });
    } finally {
      await sink.close();
    }
  });

  test("a lost reply to COMMIT is settled on whatever session comes next", async () => {
    const proxy = await startTcpProxy({ target: bouncer.via(database.url) });
    const pool = new pg.Pool({ connectionString: proxy.via(database.url) });
    pool.on("error", () => undefined);
    const sink = sinkOf({ pool });
    try {
      await sink.writeBatch([{ id: 1, v: "a" }]);
      // oxlint-disable-next-line no-control-regex -- the protocol ends texts with a zero
      const cut = proxy.cutAt(/\0COMMIT\0/);
      const written = sink.writeBatch([
        { id: 1, v: "b" },
        { id: 2, v: "c" },
      ]);
      await cut;
      expect(await written).toEqual(counts(1, 1, 0, 0));
    } finally {
      await sink.close();
      await pool.end();
      await proxy.close();
    }
  });
});
