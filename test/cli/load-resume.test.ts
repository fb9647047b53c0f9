/** `oncekey load` that is stopped in the middle, by kill -9 and by a signal, and goes on: no record lost, none sent twice. */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

import type pg from "pg";

import { migrate } from "../../src/stores/postgres.js";
import { compiledTree } from "../support/compiled-tree.js";
import { useDatabase } from "../support/databases.js";
import { exited, spawnChild } from "../support/processes.js";
import { startProgram, type RunningProcess } from "../support/server-process.js";
import { waitFor } from "../support/wait-for.js";
import {
  checksum,
  clicks,
  clicksTable,
  csv,
  distinct,
  fileOf,
  ndjson,
  oncekeyHere,
} from "./load-place.js";
import { oncekey, type Outcome } from "./oncekey.js";

// Processes are started and killed, on a machine that may be busy.
jest.setTimeout(90_000);

const count = 1_000;
const chunk = 100;

const database = useDatabase({
  prepare: async (pool) => {
    await migrate({ pool });
    await pool.query(clicksTable);
    // Every row that is sent and committed, whether it was new or not.
    await pool.query(`CREATE TABLE arrivals (event_id text);
      CREATE FUNCTION arrive() RETURNS trigger LANGUAGE plpgsql AS
        $$BEGIN INSERT INTO arrivals VALUES (NEW.event_id); RETURN NEW; END$$;
      CREATE TRIGGER arrive BEFORE INSERT ON clicks FOR EACH ROW EXECUTE FUNCTION arrive()`);
  },
});
beforeEach(async () => {
  await database.pool.query("TRUNCATE clicks, arrivals, idempotency_batches");
});

const argsOf = (file: string, more: readonly string[] = []): string[] =>
  [
    "load",
    file,
    "--table",
    "clicks",
    "--key",
    "event_id",
    "--batch-rows",
    String(chunk),
    "--json",
  ].concat(more);
const load = (file: string, more: readonly string[] = []): Promise<Outcome> =>
  oncekeyHere(argsOf(file, more), { DATABASE_URL: database.url });
const counted = ({ stdout, stderr }: Outcome): Record<string, unknown> => {
  if (stdout === "") throw new Error(stderr);
  return JSON.parse(stdout) as Record<string, unknown>;
};

/** Those that were sent more than once. */
async function sentAgain(): Promise<string[]> {
  const { rows } = await database.pool.query<{ event_id: string }>(
    "SELECT event_id FROM arrivals GROUP BY 1 HAVING count(*) > 1 ORDER BY length(event_id), event_id",
  );
  return rows.map(({ event_id }) => event_id);
}

async function batches(): Promise<number> {
  const { rows } = await database.pool.query<{ count: number }>(
    "SELECT count(*)::int AS count FROM idempotency_batches",
  );
  return rows[0]?.count ?? 0;
}

/** Starts a load that waits for another transaction, which holds the key `e<number>`; `done` batches are committed by then. */
async function stuckLoad(
  args: readonly string[],
  number: number,
  done: number,
): Promise<{ readonly program: RunningProcess; readonly letGo: () => Promise<void> }> {
  const holder: pg.PoolClient = await database.pool.connect();
  await holder.query("BEGIN");
  await holder.query("INSERT INTO clicks VALUES ($1)", [`e${number}`]);
  const program = startProgram("src/cli/main.ts", { args, env: { DATABASE_URL: database.url } });
  const isStuck = async (): Promise<boolean> => {
    const { rows } = await database.pool.query(
      "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'",
    );
    return rows.length > 0 && (await batches()) === done;
  };
  const letGo = async (): Promise<void> => {
    await holder.query("ROLLBACK");
    holder.release();
  };
  try {
    await waitFor(isStuck, { timeoutMs: 60_000, what: `the load to wait\n${program.output()}` });
  } catch (error) {
    await letGo();
    throw error;
  }
  return { program, letGo };
}

/** The server ends what a dead client has begun, when it finds out. */
async function othersGone(): Promise<void> {
  const isAlone = async (): Promise<boolean> => {
    const { rows } = await database.pool.query(
      "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'oncekey'",
    );
    return rows.length === 0;
  };
  await waitFor(isAlone, { what: "sessions of the dead process to end" });
}

async function killInTheMiddle(args: readonly string[], done = 5): Promise<void> {
  const { program, letGo } = await stuckLoad(args, 550, done);
  await program.kill();
  await letGo();
  await othersGone();
}

test.each<[string, string, readonly string[]]>([
  ["a.ndjson", ndjson(clicks(count)), []],
  ["a.csv", csv(clicks(count)), []],
])("%s is killed with -9 in the middle, and goes on where it was", async (name, content, more) => {
  const file = fileOf(name, content);
  await killInTheMiddle(argsOf(file, more));
  expect(await batches()).toBe(5);
  expect(counted(await load(file, more))).toMatchObject({
    records: count,
    inserted: distinct(count),
    updated: 0,
    unchanged: 0,
    duplicatesInBatch: 100,
    earlier: 500,
    missing: 0,
  });
  expect(await sentAgain()).toEqual([]);
  const resumed = await checksum(database.pool);
  await database.pool.query("TRUNCATE clicks, arrivals");
  await load(file, more);
  expect(await checksum(database.pool)).toBe(resumed);
});

test("several writers: batches behind the one that was not finished are passed over too", async () => {
  const file = fileOf("a.ndjson", ndjson(clicks(count)));
  const more = ["--version-column", "version", "--writers", "2"];
  await killInTheMiddle(argsOf(file, more), 9);
  expect(counted(await load(file, more))).toMatchObject({
    inserted: distinct(count),
    unchanged: 0,
    earlier: 900,
  });
  expect(await sentAgain()).toEqual([]);
});

test("without a version column no batch overtakes another: the later record stays", async () => {
  const rows: object[] = clicks(2 * chunk);
  rows[chunk + 50] = { event_id: "e5", merchant: "later", amount: 1, version: 1 };
  // The first batch waits before it comes to e5.
  const { program, letGo } = await stuckLoad(argsOf(fileOf("a.ndjson", ndjson(rows))), 0, 0);
  try {
    const overtaken = waitFor(async () => (await batches()) > 0, { timeoutMs: 1_000 });
    await expect(overtaken).rejects.toThrow("Waited 1000 ms");
  } finally {
    await letGo();
  }
  expect(await program.exited(40_000)).toBe(0);
  const { rows: found } = await database.pool.query(
    "SELECT merchant FROM clicks WHERE event_id = 'e5'",
  );
  expect(found).toEqual([{ merchant: "later" }]);
});

test("standard input goes on when the same bytes come again", async () => {
  const rows: object[] = clicks(count);
  const good = rows[550];
  rows[550] = { event_id: 5 };
  const loadInput = (input: readonly object[]): Promise<Outcome> =>
    oncekey(
      argsOf("-", ["--format", "ndjson"]),
      { DATABASE_URL: database.url },
      { input: ndjson(input) },
    );
  const { code, stderr } = await loadInput(rows);
  expect([code, stderr]).toEqual([
    1,
    "Line 551: event_id is not a text. Set such records aside with --bad-rows FILE.\n" +
      "500 records are loaded. The same command with the same input passes over them.\n",
  ]);
  rows[550] = good as object;
  expect(counted(await loadInput(rows))).toMatchObject({ records: count, earlier: 500 });
  expect(await sentAgain()).toEqual([]);
});

test("a connection that is lost in the middle of standard input is got over", async () => {
  const content = ndjson(clicks(count));
  const holder = await database.pool.connect();
  await holder.query("BEGIN");
  await holder.query("INSERT INTO clicks VALUES ('e550')");
  const first = oncekey(
    argsOf("-", ["--format", "ndjson"]),
    { DATABASE_URL: database.url },
    { input: content },
  );
  await waitFor(async () => (await batches()) === 5, { what: "five batches" });
  // The server ends the transaction that waits, for good.
  await holder.query(
    `SELECT pg_terminate_backend(pid, 1000) FROM pg_stat_activity
     WHERE datname = current_database() AND application_name = 'oncekey'`,
  );
  await holder.query("ROLLBACK");
  holder.release();
  // It was only a lost connection, which the load gets over by itself.
  expect(counted(await first)).toMatchObject({ inserted: distinct(count), earlier: 0 });
  expect(await sentAgain()).toEqual([]);
});

test.each<NodeJS.Signals>(["SIGINT", "SIGTERM"])(
  "%s: what was begun is finished",
  async (signal) => {
    const file = fileOf("a.ndjson", ndjson(clicks(count)));
    const { program, letGo } = await stuckLoad(argsOf(file), 550, 5);
    program.signal(signal);
    await program.waitForOutput(/^Stopping: what was begun is finished\./m, 40_000);
    await letGo();
    expect(await program.exited(40_000)).toBe(1);
    expect(program.output()).toMatch(
      /^Stopped\. [67]00 records are loaded\. The same command goes on behind them\.$/m,
    );
    const loaded = Number(/ (\d+) records/.exec(program.output())?.[1]);
    expect(counted(await load(file))).toMatchObject({ records: count, earlier: loaded });
    expect(await sentAgain()).toEqual([]);
  },
);

test("a signal while more is waited for is not taken for the end of the file", async () => {
  const more = ["--format", "ndjson", "--batch-rows", "1000"];
  const child = spawnChild(
    process.execPath,
    [join(compiledTree(), "dist/esm/cli/main.js"), ...argsOf("-", more)],
    { env: { PATH: process.env["PATH"], DATABASE_URL: database.url } },
  );
  let said = "";
  child.stderr?.on("data", (piece: Buffer) => (said += piece.toString()));
  // It looks at this much before it begins; the last line is not complete.
  const content = ndjson(clicks(20_000));
  child.stdin?.write(content.slice(0, -20));
  await waitFor(async () => (await batches()) === 19, { timeoutMs: 60_000, what: "19 batches" });
  child.kill("SIGINT");
  await exited(child, 40_000);
  expect([child.exitCode, said]).toEqual([
    1,
    "Stopping: what was begun is finished. A second signal ends it at once.\n" +
      "Stopped. 19,000 records are loaded. The same command with the same input passes over them.\n",
  ]);
  expect(await batches()).toBe(19);
});

test("a second signal ends it at once, and that is harmless too", async () => {
  const file = fileOf("a.ndjson", ndjson(clicks(count)));
  const { program, letGo } = await stuckLoad(argsOf(file), 550, 5);
  program.signal("SIGINT");
  await waitFor(
    () => {
      program.signal("SIGINT");
      return program.exited(100).then(() => true);
    },
    { what: "the load to end" },
  );
  await letGo();
  await othersGone();
  expect(counted(await load(file))).toMatchObject({ inserted: distinct(count), earlier: 500 });
});

describe("a file that has changed meanwhile", () => {
  test("what has changed is loaded again, and said", async () => {
    const rows = clicks(count);
    const file = fileOf("a.ndjson", ndjson(rows));
    await killInTheMiddle(argsOf(file));
    // Of the same length, so that only the bytes tell.
    rows[250] = { ...rows[250], merchant: "mX" } as (typeof rows)[number];
    writeFileSync(file, ndjson(rows));
    const outcome = await load(file);
    expect(counted(outcome)).toMatchObject({
      records: count,
      updated: 1,
      earlier: 400,
      missing: 1,
    });
    expect(outcome.stderr).toContain("The file has changed since an earlier run: 1 of that run's");
    expect(await sentAgain()).toHaveLength(90);
    const { rows: found } = await database.pool.query(
      "SELECT merchant FROM clicks WHERE event_id = 'e250'",
    );
    expect(found).toEqual([{ merchant: "mX" }]);
  });

  test("a line that went from its middle moves all that follow", async () => {
    const rows = clicks(count);
    const file = fileOf("a.csv", csv(rows));
    await killInTheMiddle(argsOf(file));
    rows.splice(250, 1);
    writeFileSync(file, csv(rows));
    expect(counted(await load(file))).toMatchObject({
      records: count - 1,
      earlier: 200,
      missing: 3,
    });
    expect(await checksum(database.pool)).toMatch(new RegExp(`^${distinct(count)} `));
  });

  test("a file that has grown goes on", async () => {
    const file = fileOf("a.ndjson", ndjson(clicks(count)));
    await killInTheMiddle(argsOf(file));
    writeFileSync(file, ndjson([...clicks(count), { event_id: "new", merchant: "m" }]));
    expect(counted(await load(file))).toMatchObject({
      records: count + 1,
      inserted: distinct(count) + 1,
      earlier: 500,
    });
    expect(await sentAgain()).toEqual([]);
  });
});

test("--restart, a table that was truncated, and other options begin anew", async () => {
  const file = fileOf("a.ndjson", ndjson(clicks(count)));
  await killInTheMiddle(argsOf(file));
  expect(counted(await load(file, ["--restart"]))).toMatchObject({ earlier: 0, unchanged: 450 });
  await database.pool.query("TRUNCATE clicks");
  await killInTheMiddle(argsOf(file));
  await database.pool.query("TRUNCATE clicks");
  expect(counted(await load(file))).toMatchObject({ earlier: 0, inserted: distinct(count) });
  await database.pool.query("TRUNCATE clicks, idempotency_batches");
  await killInTheMiddle(argsOf(file));
  const other = await load(file, ["--columns", "event_id,merchant"]);
  expect(counted(other)).toMatchObject({ earlier: 0, inserted: 450, unchanged: 450 });
});

test("bad records of a run that was killed are in their file once", async () => {
  const rows = clicks(count).map((row, index) =>
    index % 50 === 7 ? { ...row, amount: "x" } : row,
  );
  const file = fileOf("a.ndjson", ndjson(rows));
  const bad = fileOf("bad.ndjson", "");
  const more = ["--bad-rows", bad];
  await killInTheMiddle(argsOf(file, more));
  expect(counted(await load(file, more))).toMatchObject({ bad: 20, earlier: 500 });
  const lines = readFileSync(bad, "utf8").trimEnd().split("\n");
  const numbers = lines.map((line) => (JSON.parse(line) as { line: number }).line);
  expect(numbers.sort((a, b) => a - b)).toEqual(Array.from({ length: 20 }, (_, n) => n * 50 + 8));
});
