import { cpSync, mkdirSync, readFileSync, symlinkSync } from "node:fs";
import { dirname, join } from "node:path";

import { compiledTree } from "../support/compiled-tree.js";
import { useDatabase } from "../support/databases.js";
import { freePort, temporaryDirectory } from "../support/processes.js";
import { oncekey } from "./oncekey.js";

const { version } = JSON.parse(readFileSync("package.json", "utf8")) as { version: string };

test.each([["--help"], ["-h"], ["help"]])("%s explains the commands", async (...args) => {
  const { code, stdout, stderr } = await oncekey(args);
  expect([code, stderr]).toEqual([0, ""]);
  expect(stdout).toMatch(/^ {2}serve .*payments and orders API/m);
  expect(stdout).toMatch(/^ {2}migrate .*tables/m);
});

test("the help of serve names every variable", async () => {
  const { code, stdout } = await oncekey(["serve", "--help"]);
  expect(code).toBe(0);
  for (const name of [
    "PORT",
    "HOST",
    "DATABASE_URL",
    "REDIS_URL",
    "ONCEKEY_API_KEYS",
    "ONCEKEY_DIALECT",
    "ONCEKEY_POOLER",
    "ONCEKEY_DATA_DIR",
    "PROVIDER_URL",
    "LOG_LEVEL",
  ])
    expect(stdout).toMatch(new RegExp(`^ {2}${name} `, "m"));
});

test("--version", async () => {
  expect(await oncekey(["--version"])).toEqual({ code: 0, stdout: `${version}\n`, stderr: "" });
});

test.each([
  [["srve"], "unknown command 'srve'"],
  [["migrate", "--databse-url", "x"], "unknown option '--databse-url'"],
  [["serve", "now"], "too many arguments"],
  [[], "Usage: oncekey"],
])("%j is wrong usage", async (args, message) => {
  const { code, stdout, stderr } = await oncekey(args);
  expect([code, stdout]).toEqual([2, ""]);
  expect(stderr).toContain(message);
});

test("serve with a wrong environment names every problem", async () => {
  const env = { PORT: "x", ONCEKEY_DIALECT: "y", DATABASE_URL: "mysql://u:hush@h/d" };
  const { code, stderr } = await oncekey(["serve"], env);
  expect(code).toBe(2);
  expect(stderr).toContain("PORT must be");
  expect(stderr).toContain("ONCEKEY_DIALECT must be");
  expect(stderr).toContain("DATABASE_URL must be");
  expect(stderr).not.toContain("hush");
});

describe("migrate", () => {
  const database = useDatabase();

  test("creates the tables in a schema, once", async () => {
    const args = ["migrate", "--database-url", database.url, "--schema", "idem potency"];
    const first = await oncekey(args);
    expect([first.code, first.stderr]).toEqual([0, ""]);
    expect(first.stdout).toContain("0001_init");
    const second = await oncekey(args);
    expect(second).toEqual({
      code: 0,
      stdout: "Nothing to do: the schema is up to date.\n",
      stderr: "",
    });
    const { rows } = await database.pool.query(
      "select table_schema from information_schema.tables where table_name = 'idempotency_keys'",
    );
    expect(rows).toEqual([{ table_schema: "idem potency" }]);
  });

  test("takes DATABASE_URL", async () => {
    const { code, stdout } = await oncekey(["migrate"], { DATABASE_URL: database.url });
    expect(code).toBe(0);
    expect(stdout).toContain("0001_init");
  });

  test("needs a database", async () => {
    const { code, stderr } = await oncekey(["migrate"]);
    expect(code).toBe(2);
    expect(stderr).toContain("--database-url");
  });

  test("fails without showing a password when Postgres does not answer", async () => {
    const url = `postgres://u:hush@127.0.0.1:${await freePort()}/shop`;
    const { code, stderr } = await oncekey(["migrate", "--database-url", url]);
    expect(code).toBe(1);
    expect(stderr).toContain("ECONNREFUSED");
    expect(stderr).not.toContain("hush");
  });
});

describe("without optional packages", () => {
  /** The package as `npm install oncekey` alone leaves it: its dependencies are there, and no optional peer. */
  function bareTree(): string {
    const bare = join(temporaryDirectory("bare"), "oncekey");
    for (const name of ["dist", "package.json"])
      cpSync(join(compiledTree(), name), join(bare, name), { recursive: true });
    const { dependencies } = JSON.parse(readFileSync("package.json", "utf8")) as {
      dependencies: Record<string, string>;
    };
    for (const name of Object.keys(dependencies)) {
      const link = join(bare, "node_modules", name);
      mkdirSync(dirname(link), { recursive: true });
      symlinkSync(join(process.cwd(), "node_modules", name), link);
    }
    return bare;
  }

  test("each command says what to install, and help works", async () => {
    const tree = bareTree();
    const serve = await oncekey(["serve"], {}, { tree });
    expect(serve.code).toBe(1);
    expect(serve.stderr).toMatch(/^The package [\w-]+ is not installed\./);
    expect(serve.stderr).toContain(
      "npm install express helmet pg ioredis pino pino-http prom-client",
    );
    const migrate = await oncekey(["migrate", "--database-url", "postgres://h/d"], {}, { tree });
    expect([migrate.code, migrate.stderr]).toEqual([
      1,
      "The package pg is not installed. What `oncekey migrate` needs:\n\n  npm install pg\n\n",
    ]);
    expect((await oncekey(["--help"], {}, { tree })).code).toBe(0);
  });
});
