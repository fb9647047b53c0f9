/** What the doctor finds, on servers that are as healthy or as ill as each test makes them. */
import pg from "pg";

import type { Finding } from "../../src/ops.js";
import { migrate } from "../../src/stores/postgres.js";
import { createDatabase, type Database, useDatabase } from "../support/databases.js";
import { describeWithPgBouncer, type PgBouncer, startPgBouncer } from "../support/pgbouncer.js";
import { type PostgresServer, startPostgres } from "../support/postgres-server.js";
import { freePort } from "../support/processes.js";
import { startRedis } from "../support/redis-server.js";
import { redisUrl } from "../support/servers.js";
import { oncekey } from "./oncekey.js";

type Report = { code: number | null; levels: Record<string, string>; findings: Finding[] };

/** The level of each finding by its area and name. */
async function doctor(args: readonly string[]): Promise<Report> {
  const { code, stdout, stderr } = await oncekey(["doctor", "--json", ...args]);
  expect(stderr).toBe("");
  const { findings } = JSON.parse(stdout) as { findings: Finding[] };
  const levels = findings.map(({ area, name, level }) => [`${area}: ${name}`, level] as const);
  return { code, levels: Object.fromEntries(levels), findings };
}

const adviceOf = ({ findings }: Report, name: string): string =>
  findings
    .filter((finding) => finding.name === name)
    .map(({ seen, advice }) => `${seen}: ${advice}`)
    .join("\n");

describe("a healthy pair of servers", () => {
  const database = useDatabase({ prepare: (pool) => migrate({ pool }) });

  test("has no problem, and only says that there is no synchronous replica", async () => {
    const report = await doctor(["--database-url", database.url, "--redis-url", redisUrl()]);
    expect(report.code).toBe(0);
    expect(report.levels).toEqual({
      "postgres: version": "ok",
      "postgres: role of the server": "ok",
      "postgres: fsync": "ok",
      "postgres: full_page_writes": "ok",
      "postgres: synchronous_commit": "ok",
      "postgres: synchronous replication": "warning",
      "postgres: statement and idle-in-transaction time-outs": "ok",
      "postgres: idle_session_timeout": "ok",
      "postgres: connections": "ok",
      "postgres: clock": "ok",
      "schema: migrations": "ok",
      "schema: rights": "ok",
      "schema: epoch": "ok",
      "schema: clock of the windows": "ok",
      "pooler: sessions": "ok",
      "redis: version": "ok",
      "redis: role of the server": "ok",
      "redis: maxmemory-policy": "ok",
      "redis: persistence": "ok",
      "redis: cluster mode": "ok",
      "redis: scripts": "ok",
      "redis: latency": "ok",
    });
    const words = await oncekey(["doctor", "--database-url", database.url]);
    expect(words.code).toBe(0);
    expect(words.stdout).toMatch(/^ok {7}postgres: version: \d+/m);
    expect(words.stdout).toMatch(/^0 problems, 1 warning\.$/m);
    expect(words.stdout).toContain("No Redis was looked at");
  });

  test("has too few connections for many processes", async () => {
    const args = ["--database-url", database.url, "--processes", "20", "--pool-size", "20"];
    const report = await doctor(args);
    expect(report.code).toBe(4);
    expect(report.levels["postgres: connections"]).toBe("problem");
    expect(adviceOf(report, "connections")).toContain("560 needed");
  });

  test("with a role that may not write", async () => {
    const role = `reader_${database.name}`;
    await database.pool.query(
      `CREATE ROLE ${role} LOGIN; GRANT SELECT ON ALL TABLES IN SCHEMA public TO ${role}`,
    );
    try {
      const url = new URL(database.url);
      url.username = role;
      const report = await doctor(["--database-url", url.href]);
      expect([report.code, report.levels["schema: rights"]]).toEqual([4, "problem"]);
      expect(adviceOf(report, "rights")).toContain(`"public".idempotency_keys INSERT`);
    } finally {
      await database.pool.query(`DROP OWNED BY ${role}; DROP ROLE ${role}`);
    }
  });

  test("with a clock that a test has moved", async () => {
    await database.pool.query(
      `CREATE OR REPLACE FUNCTION idempotency_now() RETURNS timestamptz LANGUAGE sql VOLATILE
         AS $$ SELECT clock_timestamp() + interval '1 hour' $$`,
    );
    const report = await doctor(["--database-url", database.url]);
    expect([report.code, report.levels["schema: clock of the windows"]]).toEqual([4, "problem"]);
  });
});

test("a database without the tables", async () => {
  const database = await createDatabase();
  const report = await doctor(["--database-url", database.url]);
  await database.drop();
  expect([report.code, report.levels["schema: migrations"]]).toEqual([4, "problem"]);
  expect(adviceOf(report, "migrations")).toContain("oncekey migrate");
});

test("servers that do not answer, without their passwords", async () => {
  const port = await freePort();
  const { code, stdout } = await oncekey([
    "doctor",
    `--database-url=postgres://u:hush@127.0.0.1:${port}/shop`,
    `--redis-url=redis://:hush@127.0.0.1:${port}`,
  ]);
  expect(code).toBe(4);
  expect(stdout).toMatch(/^PROBLEM {2}postgres: connection: .*ECONNREFUSED/m);
  expect(stdout).toMatch(/^PROBLEM {2}redis: connection: .*ECONNREFUSED/m);
  expect(stdout).not.toContain("hush");
});

test("a Redis that throws out any key when it is full", async () => {
  const redis = await startRedis({
    settings: { maxmemory: "10mb", "maxmemory-policy": "allkeys-lru" },
  });
  const database = await createDatabase({ prepare: (pool) => migrate({ pool }) });
  const report = await doctor(["--database-url", database.url, "--redis-url", redis.url]);
  await database.drop();
  await redis.end();
  expect([report.code, report.levels["redis: maxmemory-policy"]]).toEqual([0, "warning"]);
  expect(adviceOf(report, "maxmemory-policy")).toContain("volatile-lru");
});

describe("a Postgres that was made fast", () => {
  test("can lose what it has committed", async () => {
    const settings = {
      fsync: "off",
      full_page_writes: "off",
      synchronous_commit: "off",
      idle_session_timeout: "60000",
    };
    const postgres = await startPostgres({ settings });
    const pool = new pg.Pool({ connectionString: postgres.url, max: 1 });
    await migrate({ pool });
    const report = await doctor(["--database-url", postgres.url]);
    await pool.end();
    await postgres.end();
    expect(report.code).toBe(4);
    expect(report.levels).toMatchObject({
      "postgres: fsync": "problem",
      "postgres: full_page_writes": "problem",
      "postgres: synchronous_commit": "warning",
      "postgres: idle_session_timeout": "warning",
    });
  });
});

describeWithPgBouncer("behind PgBouncer", () => {
  let postgres: PostgresServer;
  let database: Database;
  const bouncers: PgBouncer[] = [];
  beforeAll(async () => {
    postgres = await startPostgres();
    database = await createDatabase({
      serverUrl: postgres.url,
      prepare: (pool) => migrate({ pool }),
    });
  });
  afterEach(async () => {
    for (const bouncer of bouncers.splice(0)) await bouncer.end();
  });
  afterAll(async () => {
    await database?.drop();
    await postgres?.end();
  });
  const through = async (
    poolMode: "session" | "transaction",
    poolSize?: number,
  ): Promise<string> => {
    const bouncer = await startPgBouncer({
      postgresPort: postgres.port,
      poolMode,
      ...(poolSize === undefined ? {} : { poolSize }),
    });
    bouncers.push(bouncer);
    return bouncer.via(database.url);
  };

  test("in transaction mode, what does not hold and the option for it", async () => {
    const url = await through("transaction");
    const report = await doctor(["--database-url", url]);
    expect(report.code).toBe(4);
    expect(report.levels).toMatchObject({
      "pooler: sessions": "problem",
      "pooler: session settings": "problem",
      "pooler: named prepared statements": "problem",
      "schema: migrations": "ok",
    });
    expect(adviceOf(report, "sessions")).toContain('pooler: "transaction"');
    // Nothing of the examination is left for the next client.
    const pool = new pg.Pool({ connectionString: url, max: 4 });
    const clients = await Promise.all(Array.from({ length: 4 }, () => pool.connect()));
    const left: unknown[] = [];
    for (const client of clients) {
      await client.query("BEGIN");
      const { rows } = await client.query<object>(
        `SELECT coalesce(current_setting('oncekey.doctor', true), '') AS setting,
           (SELECT count(*)::int FROM pg_prepared_statements) AS statements`,
      );
      left.push(rows[0]);
    }
    for (const client of clients) {
      await client.query("ROLLBACK");
      client.release();
    }
    await pool.end();
    expect(left).toEqual(clients.map(() => ({ setting: "", statements: 0 })));
  });

  test("in transaction mode, as the option says", async () => {
    const url = await through("transaction");
    const report = await doctor(["--database-url", url, "--pooler", "transaction"]);
    expect([report.code, report.levels["pooler: sessions"]]).toEqual([0, "ok"]);
  });

  test("in transaction mode with a single session: an answer, and no hanging", async () => {
    const url = await through("transaction", 1);
    const report = await doctor(["--database-url", url]);
    expect(report.code).toBe(4);
    expect(adviceOf(report, "sessions")).toMatch(/for one transaction at a time/);
  });

  test("in session mode everything holds", async () => {
    const url = await through("session");
    const report = await doctor(["--database-url", url]);
    expect([report.code, report.levels["pooler: sessions"]]).toEqual([0, "ok"]);
    expect(adviceOf(report, "sessions")).toContain("keeps the session of each connection");
  });
});
