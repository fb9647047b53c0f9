/** The server as a process: starting, stopping, dying. */
import { Agent, request as httpRequest } from "node:http";
import { chmodSync } from "node:fs";
import { join } from "node:path";

import { useDatabase } from "../support/databases.js";
import { freePort, temporaryDirectory } from "../support/processes.js";
import { startProgram, startServer } from "../support/server-process.js";
import { startTcpProxy } from "../support/tcp-proxy.js";
import { waitFor } from "../support/wait-for.js";
import { accountA, charge, get, newKey, order, post, type RawResponse } from "./api.js";

const database = useDatabase();
const keys = { ONCEKEY_API_KEYS: "sk_test_a=acct_a" };

function environment(): Record<string, string> {
  return { ...keys, DATABASE_URL: database.url };
}

/** For an embedded Postgres, which as root runs as another user and cannot enter a private folder. */
function dataDirectory(): string {
  const parent = temporaryDirectory("data");
  chmodSync(parent, 0o755);
  return join(parent, "data");
}

/** Waits until a handler has written its row and holds its transaction open. */
async function untilHandlerRuns(): Promise<void> {
  await waitFor(async () => {
    const { rows } = await database.pool.query<{ count: number }>(
      `select count(*)::int as count from pg_stat_activity
        where datname = current_database() and state = 'idle in transaction'
          and query like '%INTO charges%'`,
    );
    return rows[0]?.count === 1;
  });
}

test("SIGTERM lets what runs finish, takes no more, closes connections and exits with 0", async () => {
  const server = await startServer({ env: environment() });
  const key = newKey();
  const slow = { ...charge, source: "tok_slow_800" };
  const agent = new Agent({ keepAlive: true });
  const running = post(server.url, "/v1/charges", slow, { "Idempotency-Key": key }, agent);
  await untilHandlerRuns();
  server.signal("SIGTERM");
  await waitFor(async () => {
    const late = await post(server.url, "/v1/charges", charge).catch((error: unknown) => error);
    return (late as NodeJS.ErrnoException).code === "ECONNREFUSED";
  });
  const { status, headers } = await running;
  expect([status, headers["connection"]]).toEqual([201, "close"]);
  expect(await server.exited()).toBe(0);
  agent.destroy();
  expect(server.output()).toContain("SIGTERM: finishing what runs.");
  const { rows } = await database.pool.query(
    "select state, status from idempotency_keys where key = $1",
    [key],
  );
  expect(rows).toEqual([{ state: "completed", status: 201 }]);
});

test("SIGTERM also waits for a handler whose client has gone, and then ends its Postgres", async () => {
  const env = { ...keys, ONCEKEY_DATA_DIR: dataDirectory() };
  const server = await startServer({ env });
  const key = { "Idempotency-Key": newKey() };
  const slow = { ...order, customer: "slow_1000" };
  const outgoing = httpRequest(`${server.url}/v1/orders`, {
    method: "POST",
    headers: { ...accountA, "Content-Type": "application/json", ...key },
  });
  outgoing.on("error", () => {});
  outgoing.end(JSON.stringify(slow));
  await waitFor(async () => {
    const text = (await get(server.url, "/metrics", {})).bytes.toString();
    return text.includes('oncekey_events_total{type="claimed",detail="at_most_once"} 1');
  });
  outgoing.destroy();
  expect(await server.stop()).toBe(0);

  const second = await startServer({ env });
  const retry = await post(second.url, "/v1/orders", slow, key);
  expect([retry.status, retry.headers["idempotent-replayed"]]).toEqual([201, "true"]);
  expect(await second.stop()).toBe(0);
});

test("one keypress sends two signals at times; a second one later exits at once", async () => {
  const server = await startServer({ env: environment() });
  const slow = post(server.url, "/v1/charges", { ...charge, source: "tok_slow_10000" });
  const lost = slow.catch((error: unknown) => error);
  await untilHandlerRuns();
  server.signal("SIGINT");
  await server.waitForOutput(/SIGINT: finishing what runs\./);
  server.signal("SIGINT");
  await expect(server.exited(1_200)).rejects.toThrow("to exit");
  server.signal("SIGINT");
  expect(await server.exited()).toBe(1);
  expect(server.output()).toContain("SIGINT again: exiting at once.");
  expect(await lost).toMatchObject({ code: "ECONNRESET" });
});

test("kill -9 between the charge and the commit leaves neither; the retry charges once", async () => {
  const first = await startServer({ env: environment() });
  const key = newKey();
  const slow = { ...charge, source: "tok_slow_700" };
  const lost = post(first.url, "/v1/charges", slow, { "Idempotency-Key": key }).catch(
    (error: unknown) => error,
  );
  await untilHandlerRuns();
  await first.kill();
  expect(await lost).toMatchObject({ code: "ECONNRESET" });

  const second = await startServer({ env: environment() });
  // Postgres may need a moment to notice that the connection is gone and to give the key's lock back.
  const retry = await waitFor(async () => {
    const response = await post(second.url, "/v1/charges", slow, { "Idempotency-Key": key });
    return response.status === 409 ? undefined : response;
  });
  expect(retry.status).toBe(201);
  expect(retry.headers["idempotent-replayed"]).toBeUndefined();
  const { rows } = await database.pool.query("select id from charges where idempotency_key = $1", [
    key,
  ]);
  expect(rows).toEqual([{ id: retry.json()["id"] }]);
  expect(await second.stop()).toBe(0);
});

test("an embedded Postgres keeps charges and their answers over kill -9", async () => {
  const env = { ONCEKEY_DATA_DIR: dataDirectory() };
  const demo = { Authorization: "Bearer sk_test_demo", "Idempotency-Key": newKey() };
  const first = await startServer({ env });
  const made = await post(first.url, "/v1/charges", charge, demo);
  expect(made.status).toBe(201);
  await first.kill();

  const second = await startServer({ env });
  const retry = await post(second.url, "/v1/charges", charge, demo);
  expect(retry.status).toBe(201);
  expect(retry.bytes.equals(made.bytes)).toBe(true);
  expect(retry.headers["idempotent-replayed"]).toBe("true");
  expect(await second.stop()).toBe(0);
});

test("prints where it listens and a command to paste, which works as printed", async () => {
  const server = startProgram("src/cli/main.ts", {
    args: ["serve"],
    env: { DATABASE_URL: database.url, REDIS_URL: undefined, PORT: "0", HOST: "127.0.0.1" },
  });
  await server.waitForOutput(/-d '/);
  const output = server.output();
  const [, url = ""] = /^oncekey is listening on (http:\/\/127\.0\.0\.1:\d+)$/m.exec(output) ?? [];
  const [command = ""] = /^ {2}curl -i[^]*?-d '.*'$/m.exec(output) ?? [];
  expect(command).toContain(`${url}/v1/charges`);
  const headers = Object.fromEntries(
    [...command.matchAll(/-H "([^:]+): ([^"]+)"/g)].map(([, name, value]) => [name, value]),
  ) as Record<string, string>;
  const [, body = ""] = /-d '(.*)'/.exec(command) ?? [];
  const answers: RawResponse[] = [];
  for (let count = 0; count < 2; count += 1)
    answers.push(await post(url, "/v1/charges", body, headers));
  expect(answers.map(({ status }) => status)).toEqual([201, 201]);
  expect(answers[1]?.headers["idempotent-replayed"]).toBe("true");
  expect(await server.stop()).toBe(0);
});

test("shows no key but the public one of the demo", async () => {
  const server = await startServer({ env: { ...environment(), LOG_LEVEL: "trace" } });
  await post(server.url, "/v1/charges", charge);
  expect(await server.stop()).toBe(0);
  expect(server.output()).toContain("Bearer $API_KEY");
  expect(server.output()).not.toContain("sk_test_a");
  expect(server.output()).not.toContain(new URL(database.url).password || database.url);
});

describe("a Postgres that is not there", () => {
  test("is waited for", async () => {
    const proxy = await startTcpProxy({ target: database.url });
    proxy.refuse();
    const server = startProgram("src/cli/main.ts", {
      args: ["serve"],
      env: { ...keys, DATABASE_URL: proxy.via(database.url), REDIS_URL: undefined, PORT: "0" },
    });
    await server.waitForOutput(/^Waiting for Postgres at 127\.0\.0\.1:\d+\/\w+ \(\w+\)\.$/m);
    proxy.heal();
    await server.waitForOutput(/^oncekey is listening on /m);
    expect(await server.stop()).toBe(0);
    await proxy.close();
  });

  test("is waited for no longer after SIGTERM", async () => {
    const server = startProgram("src/cli/main.ts", {
      args: ["serve"],
      env: { DATABASE_URL: `postgres://127.0.0.1:${await freePort()}/shop`, PORT: "0" },
    });
    await server.waitForOutput(/^Waiting for Postgres/m);
    expect(await server.stop()).toBe(1);
    expect(server.output()).toContain("Stopped before Postgres answered.");
  });

  test("is refused at once where waiting cannot help, without showing a password", async () => {
    const wrong = new URL(database.url);
    wrong.pathname = "/oncekey_nobody";
    const server = startProgram("src/cli/main.ts", {
      args: ["serve"],
      env: { DATABASE_URL: wrong.href, REDIS_URL: undefined, PORT: "0" },
    });
    expect(await server.exited()).toBe(1);
    expect(server.output()).toMatch(
      /^Postgres at [\w.]+:\d+\/oncekey_nobody cannot be used: database "oncekey_nobody" does not exist\.$/m,
    );
    expect(server.output()).not.toContain(wrong.href);
  });
});

test("a port that is taken is named, and everything that was opened is closed", async () => {
  const first = await startServer({ env: environment() });
  const second = startProgram("src/cli/main.ts", {
    args: ["serve"],
    env: { ...environment(), REDIS_URL: undefined, PORT: String(first.port) },
  });
  expect(await second.exited()).toBe(1);
  expect(second.output()).toContain(`Port ${first.port} is taken.`);
  expect(await first.stop()).toBe(0);
});
