import {
  chmodSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";

import pg from "pg";

import { canEnter } from "../../src/server/embedded-binaries.js";
import { startOf } from "../../src/server/data-owner.js";
import { startEmbeddedPostgres } from "../../src/server/embedded.js";
import { temporaryDirectory } from "../support/processes.js";
import { type RunningProcess, startProgram } from "../support/server-process.js";
import { waitFor } from "../support/wait-for.js";

const asRoot = process.getuid?.() === 0;
const orphans = new Set<number>();

function dataDirectory(mode = 0o755): string {
  const parent = temporaryDirectory("data");
  chmodSync(parent, mode);
  return join(parent, "oncekey");
}

type Started = { program: RunningProcess; pid: number; url: string };

async function start(dataDir: string): Promise<Started> {
  const program = startProgram("test/server/programs/embedded.ts", { args: [dataDir] });
  const [, pid = "", url = ""] = await program.waitForOutput(/^ready (\d+) (\S+)$/m);
  orphans.add(Number(pid));
  return { program, pid: Number(pid), url };
}

async function query(url: string, text: string): Promise<unknown[]> {
  const client = new pg.Client({ connectionString: url });
  client.on("error", () => {});
  await client.connect();
  try {
    return (await client.query(text)).rows as unknown[];
  } finally {
    await client.end().catch(() => {});
  }
}

async function crash(pid: number): Promise<void> {
  process.kill(pid, "SIGKILL");
  await waitFor(() => startOf(pid) === undefined, { what: "Postgres to die" });
}

afterEach(async () => {
  for (const pid of orphans) if (startOf(pid) !== undefined) process.kill(pid, "SIGQUIT");
  await waitFor(() => [...orphans].every((pid) => startOf(pid) === undefined));
  orphans.clear();
});

test("is durable, private and in the C locale, and stops cleanly", async () => {
  const dataDir = dataDirectory();
  const { program, pid, url } = await start(dataDir);
  const rows = await query(
    url,
    `select current_setting('fsync') as fsync, current_setting('listen_addresses') as listens,
            datcollate, pg_encoding_to_char(encoding) as encoding
       from pg_database where datname = current_database()`,
  );
  expect(rows).toEqual([{ fsync: "on", listens: "127.0.0.1", datcollate: "C", encoding: "UTF8" }]);
  expect(statSync(join(dataDir, "password")).mode & 0o777).toBe(0o600);
  await expect(query(url.replace(/:[^:@]+@/, ":wrong@"), "select 1")).rejects.toThrow("password");
  expect(await program.stop()).toBe(0);
  expect(startOf(pid)).toBeUndefined();
  expect(readdirSync(dataDir)).not.toContain("owner");
});

test("keeps its rows when the server alone is killed, and ends the orphan at the next start", async () => {
  const dataDir = dataDirectory();
  const first = await start(dataDir);
  await query(first.url, "create table t (id int)");
  await query(first.url, "insert into t values (1)");
  await first.program.kill();
  expect(startOf(first.pid)).toBeDefined();

  const second = await start(dataDir);
  expect(second.pid).not.toBe(first.pid);
  expect(startOf(first.pid)).toBeUndefined();
  expect(await query(second.url, "select id from t")).toEqual([{ id: 1 }]);
  await second.program.stop();
});

test("keeps its rows when both are killed", async () => {
  const dataDir = dataDirectory();
  const first = await start(dataDir);
  await query(first.url, "create table t (id int)");
  await query(first.url, "insert into t values (2)");
  await first.program.kill();
  await crash(first.pid);

  const second = await start(dataDir);
  expect(await query(second.url, "select id from t")).toEqual([{ id: 2 }]);
  await second.program.stop();
});

test("starts although the pid file of last time names a stranger who is alive", async () => {
  const dataDir = dataDirectory();
  const first = await start(dataDir);
  await first.program.kill();
  const pidFile = join(dataDir, "postgres", "postmaster.pid");
  const lines = readFileSync(pidFile, "utf8");
  await crash(first.pid);
  writeFileSync(pidFile, lines.replace(/^\d+/, String(process.pid)));
  writeFileSync(join(dataDir, "owner"), `${process.pid} 1\n`);

  const second = await start(dataDir);
  expect(await query(second.url, "select 1 as one")).toEqual([{ one: 1 }]);
  await second.program.stop();
});

test("refuses a directory that another live server owns, and leaves that one alone", async () => {
  const dataDir = dataDirectory();
  const first = await start(dataDir);
  await expect(startEmbeddedPostgres({ dataDir })).rejects.toThrow(
    `Another oncekey server (pid ${first.program.pid}) is using ${dataDir}.`,
  );
  expect(await query(first.url, "select 1 as one")).toEqual([{ one: 1 }]);
  await first.program.stop();
});

test("of several that start at once one wins", async () => {
  const dataDir = dataDirectory();
  mkdirSync(dataDir, { recursive: true });
  writeFileSync(join(dataDir, "owner"), "999999999 1\n");
  const programs = [1, 2, 3, 4].map(() =>
    startProgram("test/server/programs/embedded.ts", { args: [dataDir] }),
  );
  const words = await Promise.all(
    programs.map(async (program) =>
      (await program.waitForOutput(/^(ready|failed) ?(\d+)?/m)).slice(1),
    ),
  );
  for (const [word, pid] of words) if (word === "ready") orphans.add(Number(pid));
  expect(words.filter(([word]) => word === "ready")).toHaveLength(1);
  await Promise.all(programs.map((program) => program.stop()));
});

(asRoot ? describe : describe.skip)("as root", () => {
  test("works under a folder that only root may enter", async () => {
    const dataDir = dataDirectory(0o700);
    const first = await start(dataDir);
    const home = readFileSync(join(dataDir, "cluster-location"), "utf8");
    expect(canEnter(home, { uid: 65_534, gid: 65_534 })).toBe(true);
    await query(first.url, "create table t (id int)");
    await first.program.kill();
    const second = await start(dataDir);
    expect(await query(second.url, "select id from t")).toEqual([]);
    await second.program.stop();
    rmSync(home, { recursive: true });
  });
});
