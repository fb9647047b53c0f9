/** The dialect of MySQL on a real MariaDB, unpacked from Debian's packages. */
import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { userInfo } from "node:os";

import { mergeSink } from "../../src/pipeline.js";
import { describeMerge } from "../pipeline/merge-rounds.js";
import { unpackDebian } from "../support/debian-package.js";
import { spawnChild, temporaryDirectory } from "../support/processes.js";
import { waitFor } from "../support/wait-for.js";
import { loadDriver } from "./load-driver.js";

interface Pool {
  query(text: string, values?: readonly string[]): Promise<[unknown, unknown]>;
  end(): Promise<void>;
}
const { createPool } = loadDriver("mysql2/promise") as { createPool: (options: object) => Pool };

jest.setTimeout(120_000);

describe("MariaDB", () => {
  let pool: Pool;
  const run = async (text: string, values: readonly string[]) => {
    const [rows] = await pool.query(text, values);
    return Array.isArray(rows) ? (rows as Record<string, unknown>[]) : [];
  };

  beforeAll(async () => {
    const packages = ["mariadb-server-core"];
    const found = unpackDebian({ name: "mariadb", packages, program: "usr/sbin/mariadbd" });
    if (found === undefined) throw new Error("MariaDB cannot be had from Debian's packages here.");
    const root = join(found.path, "../../..");
    const folder = temporaryDirectory("mariadb");
    const socket = join(folder, "socket");
    const env = { ...process.env, LD_LIBRARY_PATH: found.libraryPath } as NodeJS.ProcessEnv;
    const options = [
      "--no-defaults",
      `--datadir=${folder}/data`,
      `--basedir=${root}/usr`,
      `--lc-messages-dir=${root}/usr/share/mysql`,
      `--user=${userInfo().username}`,
    ];
    const system = ["mysql_system_tables.sql", "mysql_system_tables_data.sql"].map(
      (file) => `cat ${root}/usr/share/mysql/${file};`,
    );
    const script = `mkdir -p ${folder}/data/mysql && (echo 'use mysql;'; ${system.join(" ")}) | ${found.path} ${options.join(" ")} --bootstrap`;
    const made = spawnSync("bash", ["-c", script], { env, encoding: "utf8" });
    if (made.status !== 0) throw new Error(made.stderr);
    spawnChild(
      found.path,
      [...options, "--skip-networking", "--skip-grant-tables", `--socket=${socket}`],
      { env, stdio: "ignore" },
    );
    pool = createPool({ socketPath: socket, user: "root", timezone: "Z" });
    const answers = () =>
      pool.query("CREATE DATABASE IF NOT EXISTS test").then(
        () => true,
        () => false,
      );
    await waitFor(answers, { timeoutMs: 60_000, what: "MariaDB" });
    await pool.end();
    pool = createPool({ socketPath: socket, user: "root", database: "test", timezone: "Z" });
  });
  afterAll(() => pool.end());

  const quote = (table: string): string => `\`${table.replaceAll("`", "``")}\``;
  let tables = 0;
  describeMerge({
    engine: () => ({ dialect: "mysql", run }),
    makeTable: async () => {
      const table = `odd \`name' ${(tables += 1)}`;
      await run(
        `CREATE TABLE ${quote(table)} (id VARCHAR(40) PRIMARY KEY, version BIGINT, merchant VARCHAR(40), amount DECIMAL(20, 2), more INT)`,
        [],
      );
      return table;
    },
    read: async (table) => {
      const rows = await run(
        `SELECT CONCAT_WS('|', id, version, COALESCE(merchant, ''), amount) AS line FROM ${quote(table)} ORDER BY BINARY id`,
        [],
      );
      return rows.map(({ line }) => String(line));
    },
  });

  test("a second unique index is refused: its clash would update the row of another key", async () => {
    await run("CREATE TABLE two (id VARCHAR(40) PRIMARY KEY, email VARCHAR(40) UNIQUE)", []);
    const sink = mergeSink({
      table: "two",
      key: "id",
      columns: ["id", "email"],
      onDuplicate: "overwrite",
      engine: { dialect: "mysql", run },
    });
    await expect(sink.writeBatch([{ id: "a", email: "b" }])).rejects.toMatchObject({
      code: "table_unsuitable",
    });
  });

  test("a value that does not fit fails the batch, and becomes no NULL", async () => {
    await run("CREATE TABLE fits (id VARCHAR(40) PRIMARY KEY, version BIGINT, at DATETIME(3))", []);
    const sink = mergeSink({
      table: "fits",
      key: "id",
      columns: ["id", "version", "at"],
      onDuplicate: "overwrite",
      version: "version",
      engine: { dialect: "mysql", run },
    });
    await expect(
      sink.writeBatch([
        { id: "a", version: 1 },
        { id: "b", version: "no number" },
      ]),
    ).rejects.toThrow();
    expect(await run("SELECT * FROM fits", [])).toEqual([]);
    await run("CREATE TABLE kinds (id VARCHAR(40) PRIMARY KEY, yes BOOLEAN, extra JSON)", []);
    const kinds = mergeSink({
      table: "kinds",
      key: "id",
      columns: ["id", "yes", "extra"],
      onDuplicate: "overwrite",
      engine: { dialect: "mysql", run },
    });
    await kinds.writeBatch([{ id: "a", yes: true, extra: { list: [1, "b'\"\\"] } }]);
    expect(await run("SELECT * FROM kinds", [])).toEqual([
      { id: "a", yes: 1, extra: { list: [1, "b'\"\\"] } },
    ]);
    await sink.writeBatch([{ id: "a", version: 1, at: new Date("2026-01-31T23:59:59.999Z") }]);
    expect(await run("SELECT CAST(at AS CHAR) AS at FROM fits", [])).toEqual([
      { at: "2026-01-31 23:59:59.999" },
    ]);
  });
});
