/** What operators see of keys and do to them, by the command line. */
import { randomUUID } from "node:crypto";
import { writeFileSync } from "node:fs";
import { join } from "node:path";

import type { Redis } from "ioredis";

import type { Guarantee, KeyRef } from "../../src/core/record.js";
import { migrate, postgresStore } from "../../src/stores/postgres.js";
import { redisCache } from "../../src/stores/redis.js";
import { connectRedis, created, newRequest, windows } from "../stores/open-stores.js";
import { useDatabase } from "../support/databases.js";
import { freePort, temporaryDirectory } from "../support/processes.js";
import { redisUrl } from "../support/servers.js";
import { oncekey, type Outcome } from "./oncekey.js";

const database = useDatabase({ prepare: (pool) => migrate({ pool }) });
let store: ReturnType<typeof postgresStore>;
beforeEach(() => {
  store = postgresStore({ pool: database.pool });
});
afterEach(async () => {
  await store.close();
  await database.pool.query("TRUNCATE idempotency_keys, idempotency_settlements CASCADE");
});

const run = (
  args: readonly string[],
  env: Record<string, string> = {},
  input = "",
): Promise<Outcome> =>
  oncekey(args, { DATABASE_URL: database.url, USER: "ada", ...env }, { input });

const ref = (key = "order-1", scope = "acct_1:test"): KeyRef => ({ scope, key });

async function claimed(where: KeyRef, guarantee: Guarantee = "at_most_once") {
  const steps = { handler: "checkout", request: JSON.stringify({ body: { card: "4242" } }) };
  const answer = await store.claim(
    newRequest(where, { guarantee, ...(guarantee === "steps" ? { steps } : {}) }),
  );
  if (answer.kind !== "claimed") throw new Error(answer.kind);
  return answer.claim;
}

async function abandoned(where: KeyRef, guarantee: Guarantee = "at_most_once") {
  const claim = await claimed(where, guarantee);
  await database.pool.query(
    "UPDATE idempotency_keys SET lease_until = clock_timestamp() - interval '90 minutes' WHERE key = $1",
    [where.key],
  );
  return claim;
}

async function completed(where: KeyRef) {
  await store.complete(await claimed(where), { ...windows, response: created });
}

async function setAside(where: KeyRef, retryInMs?: number) {
  await store.steps?.park(await claimed(where, "steps"), "the provider is down", retryInMs);
}

async function stateOf(where: KeyRef): Promise<string | undefined> {
  return (await store.find(where))?.record.state;
}

const settlements = async () =>
  (await database.pool.query("SELECT key, outcome, settled_by, why FROM idempotency_settlements"))
    .rows;

const why = ["--why", "asked the provider"];

describe("status", () => {
  test("of an empty store", async () => {
    const { code, stdout } = await run(["status"]);
    expect(code).toBe(0);
    expect(stdout).toMatch(/^There are no keys\.$/m);
    expect(stdout).toMatch(/^outcome unknown +0$/m);
  });

  test("counts by state and guarantee, and lists what waits for an operator", async () => {
    await completed(ref("done-1"));
    await completed(ref("done-2"));
    await claimed(ref("live"));
    await abandoned(ref("lost"));
    await abandoned(ref("again"), "rerun");
    await abandoned(ref("due"), "steps");
    await setAside(ref("given-up"));
    await setAside(ref("later"), 60_000);
    await database.pool.query(
      "UPDATE idempotency_keys SET reap_at = clock_timestamp() WHERE key = 'done-1'",
    );
    const { code, stdout } = await run(["status", "--json"]);
    expect(code).toBe(0);
    const found = JSON.parse(stdout) as Record<string, unknown>;
    expect(found).toMatchObject({
      keys: [
        { state: "completed", guarantee: "at_most_once", keys: 2 },
        { state: "parked", guarantee: "steps", keys: 2 },
        { state: "running", guarantee: "at_most_once", keys: 2 },
        { state: "running", guarantee: "rerun", keys: 1 },
        { state: "running", guarantee: "steps", keys: 1 },
      ],
      abandoned: 3,
      unknown: 1,
      setAside: 1,
      due: 1,
      reapable: 1,
      outbox: { pending: 0, setAside: 0 },
      waiting: [
        { key: "lost", standing: "unknown", method: "POST", path: "/charges" },
        { key: "given-up", standing: "set_aside" },
      ],
    });
    expect(found["oldestAbandonedMs"]).toBeGreaterThanOrEqual(90 * 60_000);
    const words = await run(["status", "--list", "1"]);
    expect(words.stdout).toMatch(/^running \(at_most_once\) +2$/m);
    expect(words.stdout).toMatch(/^abandoned +3, the oldest for 90 min$/m);
    expect(words.stdout).toMatch(/^ {2}unknown +\S+ +acct_1:test {2}lost {2}POST \/charges$/m);
    expect(words.stdout).not.toContain("given-up");
  });
});

describe("inspect", () => {
  test("shows claim, lease and what to do, and no value of the request", async () => {
    const claim = await abandoned(ref());
    const { code, stdout } = await run(["inspect", "order-1"]);
    expect(code).toBe(0);
    expect(stdout).toMatch(/^scope +acct_1:test$/m);
    expect(stdout).toMatch(/^state +running \(at_most_once\)$/m);
    expect(stdout).toContain(`${claim.claimId}, token ${claim.token}`);
    expect(stdout).toMatch(/^lease +over for 90 min$/m);
    expect(stdout).toContain("oncekey resolve");
    const other = ref("checkout-1");
    await setAside(other);
    const steps = await run(["inspect", "checkout-1", "--scope", other.scope]);
    expect(steps.stdout).toMatch(/^last error +the provider is down$/m);
    expect(steps.stdout).toMatch(/^failures +1$/m);
    expect(stdout + steps.stdout).not.toContain("4242");
  });

  test("shows recovery points without results, and the settlements", async () => {
    const claim = await abandoned(ref(), "steps");
    await store.steps?.save(claim, { position: 0, name: "charge", kind: "call" }, '"secret"');
    await database.pool.query(
      `INSERT INTO idempotency_settlements (scope, key, claim_id, token, outcome, settled_by, why, settled_at)
         VALUES ('acct_1:test', 'order-1', gen_random_uuid(), 1, 'retried', 'bob', 'try again', now())`,
    );
    const { stdout } = await run(["inspect", "order-1"]);
    expect(stdout).toMatch(/^ {2}0 {2}charge {2}call {2}done {2}\S+Z$/m);
    expect(stdout).toMatch(/^ {2}\S+Z {2}retried by bob: try again$/m);
    expect(stdout).not.toContain("secret");
  });

  test("shows status, headers and size of a response, and its body only when asked", async () => {
    await completed(ref());
    const without = await run(["inspect", "order-1"]);
    expect(without.stdout).toMatch(
      /^Response: 201, 13 bytes\n {2}Content-Type: application\/json$/m,
    );
    expect(without.stdout).not.toContain("ch_1");
    const withBody = await run(["inspect", "order-1", "--show-body"]);
    expect(withBody.stdout).toContain('{"id":"ch_1"}');
    const json = await run(["inspect", "order-1", "--json"]);
    expect(json.stdout).not.toContain("ch_1");
    expect(JSON.parse(json.stdout)).toMatchObject({
      standing: "replayed",
      response: { status: 201, bodyBytes: 13 },
    });
    const both = await run(["inspect", "order-1", "--json", "--show-body"]);
    expect(JSON.parse(both.stdout)).toMatchObject({ response: { body: '{"id":"ch_1"}' } });
  });

  test("lets nothing that was stored reach the terminal as a command", async () => {
    await store.steps?.park(await claimed(ref(), "steps"), "\u001b[2Jgone\u0007", undefined);
    const { stdout } = await run(["inspect", "order-1"]);
    // oxlint-disable-next-line no-control-regex -- these are the characters that are meant
    expect(stdout).not.toMatch(/[\u001b\u0007]/);
    expect(stdout).toContain("[2Jgone");
  });

  test("does not find a key, and asks which of several scopes", async () => {
    const none = await run(["inspect", "order-1"]);
    expect([none.code, none.stdout]).toEqual([3, ""]);
    expect(none.stderr).toContain("There is no key order-1 in any scope.");
    await completed(ref());
    await completed(ref("order-1", "acct_2"));
    const several = await run(["inspect", "order-1"]);
    expect(several.code).toBe(2);
    expect(several.stderr).toContain('--scope "acct_1:test"\n  --scope "acct_2"');
    expect((await run(["inspect", "order-1", "--scope", "acct_2"])).code).toBe(0);
    expect((await run(["inspect", "order-1", "--scope", "acct_3"])).code).toBe(3);
  });
});

describe("release and resolve", () => {
  test.each([[["release"]], [["resolve", "--not-executed"]]])(
    "%j frees an abandoned key",
    async (command) => {
      await abandoned(ref());
      const { code, stdout } = await run([...command, "order-1", ...why]);
      expect(code).toBe(0);
      expect(stdout).toContain("order-1 in scope acct_1:test is free again");
      expect(await stateOf(ref())).toBeUndefined();
      expect(await settlements()).toEqual([
        { key: "order-1", outcome: "not_executed", settled_by: "ada", why: "asked the provider" },
      ]);
      const gone = await run(["inspect", "order-1", "--scope", "acct_1:test"]);
      expect(gone.code).toBe(3);
      expect(gone.stderr).toContain("not_executed by ada: asked the provider");
    },
  );

  test("a key that was set aside is given back", async () => {
    await setAside(ref());
    expect((await run(["release", "order-1", ...why, "--by", "bob"])).code).toBe(0);
    expect(await settlements()).toMatchObject([{ settled_by: "bob" }]);
  });

  test("completes with a reply from a file, which is then replayed", async () => {
    await abandoned(ref());
    const file = join(temporaryDirectory("reply"), "reply.json");
    writeFileSync(
      file,
      JSON.stringify({ status: 201, headers: { Location: "/c/1" }, body: { id: 1 } }),
    );
    const { code, stdout } = await run(["resolve", "order-1", "--completed", file, ...why]);
    expect(code).toBe(0);
    expect(stdout).toContain("answered with that 201");
    const found = await store.find(ref());
    expect(found?.record.response).toEqual({
      status: 201,
      headers: [
        ["Content-Type", "application/json; charset=utf-8"],
        ["Location", "/c/1"],
      ],
      body: Buffer.from('{"id":1}'),
    });
    expect(Math.round(((found?.record.replayUntilMs ?? 0) - (found?.nowMs ?? 0)) / 3_600_000)).toBe(
      24,
    );
    expect(await settlements()).toMatchObject([{ outcome: "completed" }]);
  });

  test("completes with a reply from standard input", async () => {
    await abandoned(ref());
    const args = ["resolve", "order-1", "--completed", "-", ...why, "--json"];
    const { code, stdout } = await run(args, {}, '{"status": 200, "body": "done"}');
    expect([code, JSON.parse(stdout)]).toEqual([
      0,
      { outcome: "ok", scope: "acct_1:test", key: "order-1" },
    ]);
    expect((await store.find(ref()))?.record.response?.body).toEqual(Buffer.from("done"));
  });

  test.each([
    ["{", "cannot be read"],
    ["[]", "expected object"],
    ['{"status": 99}', "status: "],
    ['{"status": 200, "boddy": 1}', "boddy"],
    ['{"status": 200, "headers": {"A B": "x"}}', "A B"],
    ['{"status": 200, "headers": {"A": "x\\ny"}}', "A"],
  ])("refuses the reply %s and changes nothing", async (reply, complaint) => {
    await abandoned(ref());
    const { code, stderr } = await run(
      ["resolve", "order-1", "--completed", "-", ...why],
      {},
      reply,
    );
    expect(code).toBe(2);
    expect(stderr).toContain(complaint);
    expect(await stateOf(ref())).toBe("running");
  });

  test("is refused where a holder lives, and where a response is stored", async () => {
    await claimed(ref("live"));
    await completed(ref("done"));
    const reply = '{"status": 500}';
    for (const [key, words] of [
      ["live", "Its holder lives"],
      ["done", "a client may have seen its response"],
    ] as const) {
      for (const command of [
        ["release", key],
        ["resolve", key, "--not-executed"],
        ["resolve", key, "--completed", "-"],
      ]) {
        const { code, stdout, stderr } = await run([...command, ...why], {}, reply);
        expect([code, stdout]).toEqual([1, ""]);
        expect(stderr).toContain(words);
      }
    }
    expect([await stateOf(ref("live")), await stateOf(ref("done"))]).toEqual([
      "running",
      "completed",
    ]);
    expect(await settlements()).toEqual([]);
  });

  test.each([
    [["release", "order-1"], "--why"],
    [["release", "order-1", "--why", " "], "--why must say why"],
    [["resolve", "order-1", ...why], "either --completed FILE or --not-executed"],
    [["resolve", "order-1", ...why, "--not-executed", "--completed", "x"], "either"],
    [["resolve", "order-1", ...why, "--completed", "x", "--dedupe-window-ms", "1"], "shorter"],
    [["resolve", "order-1", ...why, "--completed", "/nowhere/reply.json"], "cannot be read"],
    [["reap", "--limit", "0"], "from 1 to"],
    [["doctor", "--pooler", "session"], "must be transaction"],
    [["status", "--database-url", "mysql://u:hush@h/d"], "must begin with postgres://"],
  ])("%j is wrong usage", async (args, message) => {
    const { code, stderr } = await run(args);
    expect(code).toBe(2);
    expect(stderr).toContain(message);
    expect(stderr).not.toContain("hush");
  });

  test("asks who it is where nobody says", async () => {
    await abandoned(ref());
    const { code, stderr } = await run(["release", "order-1", ...why], { USER: "" });
    expect(code).toBe(2);
    expect(stderr).toContain("Give --by");
  });
});

describe("retry", () => {
  test("makes a request that was set aside due now", async () => {
    await setAside(ref());
    expect((await run(["retry", "order-1", ...why])).code).toBe(0);
    const due = await store.steps?.claimDue(["checkout"], [randomUUID()], 1_000);
    expect(due?.map(({ key }) => key)).toEqual(["order-1"]);
    expect(await settlements()).toMatchObject([{ outcome: "retried" }]);
  });

  test("is refused for anything else", async () => {
    await abandoned(ref());
    const { code, stderr } = await run(["retry", "order-1", ...why]);
    expect(code).toBe(1);
    expect(stderr).toContain("Refused.");
  });
});

describe("forget", () => {
  const prefix = `test-${randomUUID()}:`;
  const forget = (url?: string) =>
    run([
      "forget",
      "order-1",
      ...why,
      `--redis-prefix=${prefix}`,
      ...(url === undefined ? [] : ["--redis-url", url]),
    ]);
  let client: Redis;
  beforeAll(async () => {
    client = await connectRedis();
  });
  afterAll(() => {
    client.disconnect();
  });
  /** The key's entry as the cache holds it, or undefined. */
  async function cached(): Promise<boolean> {
    const [name] = await client.keys(`${prefix}*`);
    return name !== undefined && (await client.get(name)) !== "v1 forgotten";
  }
  async function completedAndCached(): Promise<void> {
    await completed(ref());
    const found = await store.find(ref());
    const response = found?.record.response;
    if (found === undefined || response === undefined) throw new Error("not completed");
    await redisCache({ client, prefix, budgetMs: 5_000 }).keep({
      record: { ...found.record, response },
      replayLeftMs: 60_000,
      readAtMs: performance.now(),
      epoch: store.epoch() ?? "",
    });
    expect(await cached()).toBe(true);
  }
  afterEach(async () => {
    const names = await client.keys(`${prefix}*`);
    if (names.length > 0) await client.del(...names);
  });

  test("erases the response from Postgres and from the cache, and keeps the key", async () => {
    await completedAndCached();
    const { code, stdout } = await forget(redisUrl());
    expect(code).toBe(0);
    expect(stdout).toContain("is forgotten; the cache is cleared");
    expect([await stateOf(ref()), await cached()]).toEqual(["forgotten", false]);
    expect(await settlements()).toMatchObject([{ outcome: "forgotten" }]);
  });

  test("fails where only the cache failed, and the same command can be run again", async () => {
    await completedAndCached();
    const failed = await forget(`redis://:hush@127.0.0.1:${await freePort()}`);
    expect(failed.code).toBe(1);
    expect(failed.stderr).toContain("erased from Postgres");
    expect(failed.stderr).toContain("ECONNREFUSED");
    expect(failed.stderr).not.toContain("hush");
    expect([await stateOf(ref()), await cached()]).toEqual(["forgotten", true]);
    expect((await forget(redisUrl())).code).toBe(0);
    expect(await cached()).toBe(false);
    expect(await settlements()).toHaveLength(1);
  });

  test("says that no cache was cleared where it was told of none", async () => {
    await completed(ref());
    const { code, stdout } = await forget();
    expect(code).toBe(0);
    expect(stdout).toContain("no cache was cleared");
  });

  test("is refused for work that is not done", async () => {
    await abandoned(ref());
    const { code, stderr } = await forget(redisUrl());
    expect(code).toBe(1);
    expect(stderr).toContain("Refused.");
    expect(await stateOf(ref())).toBe("running");
  });
});

describe("reap", () => {
  test("goes on batch by batch until nothing is due", async () => {
    for (let index = 0; index < 7; index += 1) await completed(ref(`done-${index}`));
    await database.pool.query(
      `UPDATE idempotency_keys SET replay_until = clock_timestamp(), reap_at = clock_timestamp()`,
    );
    await database.pool.query(
      `UPDATE idempotency_keys SET dedupe_until = clock_timestamp() WHERE key IN ('done-1', 'done-2')`,
    );
    await claimed(ref("live"));
    const { code, stdout } = await run(["reap", "--limit", "2"]);
    expect([code, stdout]).toEqual([0, "Removed 5 responses and 2 keys.\n"]);
    expect(await stateOf(ref("live"))).toBe("running");
    const again = await run(["reap", "--json"]);
    expect(JSON.parse(again.stdout)).toEqual({ forgotten: 0, deleted: 0 });
  });
});

test("a database without the tables is told from one without the key", async () => {
  const { code, stderr } = await run(["status", "--schema", "elsewhere"]);
  expect(code).toBe(1);
  expect(stderr).toContain("oncekey migrate");
});

test("migrate --new-epoch turns cached responses into misses", async () => {
  const epoch = async () =>
    (await database.pool.query<{ epoch: string }>("SELECT epoch FROM idempotency_meta")).rows[0]
      ?.epoch;
  const before = await epoch();
  const plain = await run(["migrate", "--json"]);
  expect(JSON.parse(plain.stdout)).toEqual({ applied: [], newEpoch: false });
  expect(await epoch()).toBe(before);
  const { code, stdout } = await run(["migrate", "--new-epoch"]);
  expect(code).toBe(0);
  expect(stdout).toContain("A new epoch has begun");
  expect(await epoch()).not.toBe(before);
});
