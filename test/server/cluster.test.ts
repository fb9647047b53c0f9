/** `ONCEKEY_PROCESSES`: several processes on one port. */
import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import { Agent } from "node:http";
import { join } from "node:path";

import { useDatabase } from "../support/databases.js";
import { temporaryDirectory } from "../support/processes.js";
import { startProgram, startServer, type ServerProcess } from "../support/server-process.js";
import { waitFor } from "../support/wait-for.js";
import { charge, checkout, get, newKey, order, post, send, type RawResponse } from "./api.js";

jest.setTimeout(60_000);

const database = useDatabase();

function environment(processes = 2): Record<string, string> {
  return {
    ONCEKEY_API_KEYS: "sk_test_a=acct_a",
    ONCEKEY_PROCESSES: String(processes),
    ONCEKEY_DATA_DIR: join(temporaryDirectory("cluster"), "data"),
    DATABASE_URL: database.url,
    HOST: "127.0.0.1",
  };
}

function isAlive(pid: number): boolean {
  try {
    return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, "utf8"));
  } catch {
    return false;
  }
}

/** Live children of a process whose command line has `part`, by number. */
function childrenOf(parent: number, part = "cluster-worker"): number[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .filter((name) => {
      try {
        const stat = readFileSync(`/proc/${name}/stat`, "utf8");
        const [, of] = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
        return (
          Number(of) === parent && readFileSync(`/proc/${name}/cmdline`, "utf8").includes(part)
        );
      } catch {
        return false;
      }
    })
    .map(Number)
    .filter(isAlive)
    .sort((a, b) => a - b);
}

function untilWorkers(server: { readonly pid: number }, count: number): Promise<number[]> {
  return waitFor(() => {
    const found = childrenOf(server.pid);
    return found.length === count ? found : undefined;
  });
}

async function rowsOf(key: string): Promise<number> {
  const { rows } = await database.pool.query<{ count: number }>(
    "select count(*)::int as count from charges where idempotency_key = $1",
    [key],
  );
  return rows[0]?.count ?? 0;
}

/** Waits until so many handlers have written their row and hold their transaction open. */
async function untilHandlersRun(count: number): Promise<void> {
  await waitFor(async () => {
    const { rows } = await database.pool.query<{ count: number }>(
      `select count(*)::int as count from pg_stat_activity
        where datname = current_database() and state = 'idle in transaction'
          and query like '%INTO charges%'`,
    );
    return rows[0]?.count === count;
  });
}

/** The worker whose connection has a handler's transaction open: the other end of Postgres' socket is in its table. */
async function workerOfHandler(workers: readonly number[]): Promise<number> {
  const { rows } = await database.pool.query<{ client_port: number }>(
    `select client_port from pg_stat_activity
      where datname = current_database() and state = 'idle in transaction' and query like '%INTO charges%'`,
  );
  const port = rows[0]?.client_port ?? -1;
  const hex = port.toString(16).toUpperCase().padStart(4, "0");
  const sockets = ["tcp", "tcp6"].flatMap((table) =>
    readFileSync(`/proc/net/${table}`, "utf8")
      .split("\n")
      .map((line) => line.trim().split(/\s+/))
      .filter(([, local]) => local?.endsWith(`:${hex}`))
      .map((fields) => fields[9] ?? ""),
  );
  const found = workers.find((pid) => inodesOf(pid).some((inode) => sockets.includes(inode)));
  if (found === undefined) throw new Error(`nobody holds port ${port}`);
  return found;
}

function inodesOf(pid: number): string[] {
  return readdirSync(`/proc/${pid}/fd`).flatMap((fd) => {
    try {
      return /^socket:\[(\d+)\]$/.exec(readlinkSync(`/proc/${pid}/fd/${fd}`))?.[1] ?? [];
    } catch {
      return [];
    }
  });
}

/** With a limit each: Node forgets a connection that it was just handing to a worker that died. */
async function untilReady(server: ServerProcess): Promise<void> {
  await waitFor(
    async () => (await fetch(`${server.url}/readyz`, { signal: AbortSignal.timeout(1_000) })).ok,
  );
}

/** Each on a connection of its own, which the primary hands to the workers in turn. */
function postOnMany(
  server: ServerProcess,
  count: number,
  path: string,
  body: unknown,
  headers: Record<string, string>,
): Promise<RawResponse[]> {
  return Promise.all(Array.from({ length: count }, () => post(server.url, path, body, headers)));
}

describe("two processes", () => {
  let server: ServerProcess;

  beforeAll(async () => {
    server = await startServer({ env: environment() });
  });
  afterAll(() => server.stop());

  test("say once where they listen", async () => {
    await untilWorkers(server, 2);
    const found = server.output().match(/^.*oncekey is listening on .*$/gm);
    expect(found).toEqual([`oncekey is listening on http://127.0.0.1:${server.port}`]);
    expect(server.output()).toMatch(/Processes: 2\.$/m);
  });

  test("charge once for 50 equal requests, and answer all retries alike", async () => {
    const key = { "Idempotency-Key": newKey() };
    const slow = { ...charge, source: "tok_slow_300" };
    const first = await postOnMany(server, 50, "/v1/charges", slow, key);
    expect(await rowsOf(key["Idempotency-Key"])).toBe(1);
    const made = first.filter(({ status }) => status === 201);
    expect(made.length).toBeGreaterThanOrEqual(1);
    expect(new Set(first.map(({ status }) => status))).toEqual(new Set([201, 409]));
    const retries = await postOnMany(server, 20, "/v1/charges", slow, key);
    const bodies = [...made, ...retries].map(({ bytes }) => bytes.toString());
    expect(new Set(bodies).size).toBe(1);
    expect(retries.map(({ headers }) => headers["idempotent-replayed"])).toEqual(
      Array(20).fill("true"),
    );
  });

  test("let a duplicate in the other process wait for the answer", async () => {
    const key = { "Idempotency-Key": newKey(), Prefer: "wait=10" };
    const slow = { ...order, customer: "slow_400" };
    const answers = await postOnMany(server, 10, "/v1/orders", slow, key);
    expect(answers.map(({ status }) => status)).toEqual(Array(10).fill(201));
    expect(new Set(answers.map(({ bytes }) => bytes.toString())).size).toBe(1);
    expect(answers.filter(({ headers }) => headers["idempotent-replayed"] === "true").length).toBe(
      9,
    );
  });

  test("share one payment provider", async () => {
    const keys = Array.from({ length: 8 }, () => newKey());
    const answers = await Promise.all(
      keys.map((key) => post(server.url, "/v1/checkouts", checkout, { "Idempotency-Key": key })),
    );
    expect(answers.map(({ status }) => status)).toEqual(Array(8).fill(201));
    // One port beside the server's own: nobody but the primary has a provider.
    const workers = await untilWorkers(server, 2);
    expect(listeningPorts([server.pid, ...workers])).toHaveLength(2);
  });

  test("answer the sum of their metrics, whichever is asked", async () => {
    const count = 20;
    const before = await counted(server);
    for (let sent = 0; sent < count; sent += 1)
      await send(server.url, `/nobody/${sent}`, { method: "PUT" });
    const scrapes: number[] = [];
    for (let asked = 0; asked < 4; asked += 1) scrapes.push(await counted(server));
    expect(scrapes).toEqual(Array(4).fill(before + count));
  });
});

/** Requests with a method that no other test uses, as `/metrics` counts them. */
async function counted(server: ServerProcess): Promise<number> {
  const text = (await get(server.url, "/metrics", {})).bytes.toString();
  const line =
    /^http_request_duration_seconds_count\{method="PUT",route="other",status="404"\} (\d+)$/m;
  return Number(line.exec(text)?.[1] ?? 0);
}

/** TCP ports that these processes listen on. */
function listeningPorts(pids: readonly number[]): number[] {
  const mine = new Set(pids.flatMap(inodesOf));
  const ports = ["tcp", "tcp6"].flatMap((table) =>
    readFileSync(`/proc/net/${table}`, "utf8")
      .split("\n")
      .map((line) => line.trim().split(/\s+/))
      .filter((fields) => fields[3] === "0A" && mine.has(fields[9] ?? ""))
      .map((fields) => parseInt(fields[1]?.split(":")[1] ?? "", 16)),
  );
  return [...new Set(ports)];
}

test("kill -9 of a worker in the middle of a charge: others answer, it is replaced, the retry charges once", async () => {
  const server = await startServer({ env: environment() });
  const workers = await untilWorkers(server, 2);
  const key = { "Idempotency-Key": newKey() };
  const slow = { ...charge, source: "tok_slow_2000" };
  const lost = post(server.url, "/v1/charges", slow, key).catch((error: unknown) => error);
  await untilHandlersRun(1);
  const victim = await workerOfHandler(workers);
  process.kill(victim, "SIGKILL");
  expect(await lost).toMatchObject({ code: "ECONNRESET" });
  // The one that is left takes every connection.
  await untilReady(server);
  const retry = await waitFor(async () => {
    const response = await post(server.url, "/v1/charges", slow, key);
    return response.status === 409 ? undefined : response;
  });
  expect([retry.status, retry.headers["idempotent-replayed"]]).toEqual([201, undefined]);
  expect(await rowsOf(key["Idempotency-Key"])).toBe(1);
  const after = await untilWorkers(server, 2);
  expect(after).not.toContain(victim);
  expect(server.output()).toContain('"how":"ended by SIGKILL"');
  expect(await server.stop()).toBe(0);
});

test("when all workers die at once, their replacements listen on the same port", async () => {
  const server = await startServer({ env: environment() });
  const workers = await untilWorkers(server, 2);
  for (const pid of workers) process.kill(pid, "SIGKILL");
  await untilReady(server);
  const after = await untilWorkers(server, 2);
  expect(after.filter((pid) => workers.includes(pid))).toEqual([]);
  expect(await server.stop()).toBe(0);
});

test("workers that keep dying are not forked for ever: the server ends and says why", async () => {
  const server = await startServer({ env: environment() });
  const killed = new Set<number>();
  const hunt = waitFor(
    () => {
      for (const pid of childrenOf(server.pid)) {
        killed.add(pid);
        process.kill(pid, "SIGKILL");
      }
      return !isAlive(server.pid);
    },
    { timeoutMs: 60_000, what: "the server to give up" },
  );
  expect(await server.exited(40_000)).toBe(1);
  await hunt;
  expect(server.output()).toMatch(/^9 workers died within 60 s; the last one: ended by SIGKILL$/m);
  // Two, and a replacement for each death but the last; one more may have been on its way.
  expect(killed.size).toBeLessThanOrEqual(10);
  expect([...killed].filter(isAlive)).toEqual([]);
});

test("SIGTERM lets the requests of all workers finish, exits with 0 and leaves nobody behind", async () => {
  const server = await startServer({ env: environment() });
  const workers = await untilWorkers(server, 2);
  const agents = Array.from({ length: 8 }, () => new Agent({ keepAlive: true }));
  const slow = { ...charge, source: "tok_slow_1000" };
  const running = agents.map((agent) => post(server.url, "/v1/charges", slow, {}, agent));
  await untilHandlersRun(8);
  server.signal("SIGTERM");
  const answers = await Promise.all(running);
  expect(answers.map(({ status, headers }) => [status, headers["connection"]])).toEqual(
    answers.map(() => [201, "close"]),
  );
  expect(await server.exited()).toBe(0);
  for (const agent of agents) agent.destroy();
  expect(workers.filter(isAlive)).toEqual([]);
  await expect(get(server.url, "/readyz", {})).rejects.toMatchObject({ code: "ECONNREFUSED" });
});

test("a second Ctrl-C ends all of them at once", async () => {
  const server = await startServer({ env: environment() });
  const workers = await untilWorkers(server, 2);
  const slow = { ...charge, source: "tok_slow_10000" };
  const lost = post(server.url, "/v1/charges", slow).catch((error: unknown) => error);
  await untilHandlersRun(1);
  // As a terminal does it: to the whole group.
  for (const pid of [server.pid, ...workers]) process.kill(pid, "SIGINT");
  await server.waitForOutput(/SIGINT: finishing what runs\./);
  await waitFor(async () => {
    server.signal("SIGINT");
    return server.output().includes("SIGINT again: exiting at once.");
  });
  expect(await server.exited()).toBe(1);
  expect(await lost).toMatchObject({ code: "ECONNRESET" });
  await waitFor(() => workers.filter(isAlive).length === 0);
});

test("workers die with a primary that is killed", async () => {
  const server = await startServer({ env: environment() });
  const workers = await untilWorkers(server, 2);
  await server.kill();
  await waitFor(() => !workers.some(isAlive));
  expect(workers.filter(isAlive)).toEqual([]);
});

test("an embedded Postgres is started once and ended with the server", async () => {
  const { DATABASE_URL: _none, ...env } = environment();
  const server = await startServer({ env });
  await untilWorkers(server, 2);
  const [postgres = 0, ...more] = childrenOf(server.pid, "cluster_name=oncekey-");
  expect(more).toEqual([]);
  const key = { "Idempotency-Key": newKey() };
  const answers = await postOnMany(server, 10, "/v1/charges", charge, key);
  const made = answers.filter(({ status }) => status === 201);
  expect(new Set(made.map(({ bytes }) => bytes.toString())).size).toBe(1);
  expect(await server.stop()).toBe(0);
  expect(isAlive(postgres)).toBe(false);
});

describe("a start that fails", () => {
  const start = (env: Record<string, string>) =>
    startProgram("src/cli/main.ts", { args: ["serve"], env: { REDIS_URL: undefined, ...env } });

  test("for want of a database forks nobody", async () => {
    const wrong = new URL(database.url);
    wrong.pathname = "/oncekey_nobody";
    const server = start({ ...environment(), PORT: "0", DATABASE_URL: wrong.href });
    expect(await server.exited()).toBe(1);
    expect(server.output()).toMatch(
      /^Postgres at [\w.]+:\d+\/oncekey_nobody cannot be used: database "oncekey_nobody" does not exist\.$/m,
    );
    expect(server.output()).not.toContain("worker");
  });

  test("in a worker ends them all with that worker's reason", async () => {
    const first = await startServer({ env: environment(1) });
    const second = start({ ...environment(), PORT: String(first.port) });
    expect(await second.exited()).toBe(1);
    expect(second.output()).toContain(`Port ${first.port} is taken.`);
    expect(second.output()).not.toContain('"deaths"');
    expect(await first.stop()).toBe(0);
  });
});
