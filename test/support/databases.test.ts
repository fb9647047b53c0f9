import pg from "pg";

import { createDatabase, useDatabase } from "./databases.js";
import { startPostgres } from "./postgres-server.js";
import { redisAnswers, startRedis } from "./redis-server.js";
import { redisUrl } from "./servers.js";
import { waitFor } from "./wait-for.js";

describe("a database per test file", () => {
  const database = useDatabase({
    prepare: (pool) => pool.query("create table things (id int primary key)"),
  });

  test("is prepared, durable and in the C locale", async () => {
    await database.pool.query("insert into things values (1)");
    const { rows } = await database.pool.query(
      `select current_setting('fsync') as fsync, datcollate, pg_encoding_to_char(encoding) as encoding
         from pg_database where datname = current_database()`,
    );
    expect(rows).toEqual([{ fsync: "on", datcollate: "C", encoding: "UTF8" }]);
  });

  test("names a connection that was left open, and is dropped all the same", async () => {
    const other = await createDatabase();
    const leaked = new pg.Client({ connectionString: other.url, application_name: "the leak" });
    leaked.on("error", () => {});
    await leaked.connect();
    await expect(other.drop()).rejects.toThrow("the leak");
    const { rows } = await database.pool.query("select 1 from pg_database where datname = $1", [
      other.name,
    ]);
    expect(rows).toEqual([]);
    await leaked.end().catch(() => {});
  });

  test("Redis of the run answers", async () => {
    expect(await redisAnswers(Number(new URL(redisUrl()).port || 6379))).toBe(true);
  });
});

describe("private servers", () => {
  test("Postgres keeps committed rows over kill -9 and hangs while frozen", async () => {
    const server = await startPostgres();
    const pool = new pg.Pool({ connectionString: server.url });
    pool.on("error", () => {});
    await pool.query("create table t (id int)");
    await pool.query("insert into t values (7)");
    await server.kill();
    await expect(pool.query("select 1")).rejects.toThrow();
    await server.restart();
    expect((await pool.query("select id from t")).rows).toEqual([{ id: 7 }]);

    server.freeze();
    let answered = false;
    const query = pool.query("select 1").then(() => (answered = true));
    await expect(waitFor(() => answered, { timeoutMs: 200 })).rejects.toThrow("Waited 200 ms");
    server.thaw();
    await query;
    await pool.end();
    await server.end();
  });

  test("Redis stops, freezes and comes back on its port", async () => {
    const server = await startRedis();
    server.freeze();
    expect(await redisAnswers(server.port)).toBe(false);
    server.thaw();
    expect(await redisAnswers(server.port)).toBe(true);
    await server.stop();
    expect(await redisAnswers(server.port)).toBe(false);
    await server.restart();
    expect(await redisAnswers(server.port)).toBe(true);
    await server.end();
  });
});
