/** Replies of Postgres that never come: what was asked for may have happened. DESIGN, sections 3 and 8, rules 3 and 4. */
import { waitFor } from "../support/wait-for.js";
import { commitMessage, statement, useBench } from "./bench.js";
import { newKey, outcome, post, retry } from "./client.js";
import { countEffects, stateOf } from "./shop.js";

const bench = useBench();

/** A shop behind a proxy, with one request made so that its connections are open and its statements prepared. */
async function shopBehindProxy(idempotency: object = {}) {
  const proxy = await bench.proxy();
  const shop = await bench.shop({ databaseUrl: proxy.via(bench.databaseUrl), idempotency });
  for (const path of ["/plain", "/transaction"])
    expect((await retry(shop.url, path, { key: newKey() })).status).toBe(201);
  return { proxy, shop };
}

test("the reply to COMMIT is lost: the client gets its 201, and there is one effect", async () => {
  const key = newKey();
  const { proxy, shop } = await shopBehindProxy();
  const cut = proxy.cutAt(commitMessage);
  const first = await post(shop.url, "/transaction", { key });
  await cut;
  expect(outcome(first)).toEqual([201, undefined]);
  const replayed = await post(shop.url, "/transaction", { key });
  expect(replayed.headers["idempotent-replayed"]).toBe("true");
  expect(replayed.bytes.equals(first.bytes)).toBe(true);
  expect([bench.gate.runs(key), await countEffects(bench.pool, key)]).toEqual([1, 1]);
});

test("the reply to COMMIT is lost and Postgres cannot be reached for a while: the same, later", async () => {
  const key = newKey();
  const { proxy, shop } = await shopBehindProxy();
  const cut = proxy.cutAt(commitMessage).then(() => proxy.refuse());
  const first = post(shop.url, "/transaction", { key });
  await cut;
  await waitFor(() => proxy.refused >= 3);
  proxy.heal();
  const answer = await first;
  expect(outcome(answer)).toEqual([201, undefined]);
  const replayed = await post(shop.url, "/transaction", { key });
  expect(replayed.bytes.equals(answer.bytes)).toBe(true);
  expect([bench.gate.runs(key), await countEffects(bench.pool, key)]).toEqual([1, 1]);
});

test("the reply to COMMIT is lost and Postgres stays away: 503, and the retry replays what was committed", async () => {
  const key = newKey();
  const { proxy, shop } = await shopBehindProxy({ completeTimeoutMs: 1_000 });
  const cut = proxy.cutAt(commitMessage).then(() => proxy.refuse());
  const first = await post(shop.url, "/transaction", { key });
  await cut;
  expect([...outcome(first), first.headers["retry-after"]]).toEqual([
    503,
    "store_unavailable",
    "1",
  ]);
  proxy.heal();
  const replayed = await retry(shop.url, "/transaction", { key });
  expect([replayed.status, replayed.headers["idempotent-replayed"]]).toEqual([201, "true"]);
  expect([bench.gate.runs(key), await countEffects(bench.pool, key)]).toEqual([1, 1]);
});

test("COMMIT itself never arrives: nothing is written, and the retry runs", async () => {
  const key = newKey();
  const { proxy, shop } = await shopBehindProxy();
  const cut = proxy.cutAt(commitMessage, { forward: false });
  const first = await post(shop.url, "/transaction", { key });
  await cut;
  expect([...outcome(first), first.headers["retry-after"]]).toEqual([
    503,
    "store_unavailable",
    "1",
  ]);
  expect([await countEffects(bench.pool, key), await stateOf(bench.pool, key)]).toEqual([
    0,
    undefined,
  ]);
  const made = await retry(shop.url, "/transaction", { key });
  expect([made.status, made.headers["idempotent-replayed"]]).toEqual([201, undefined]);
  expect([bench.gate.runs(key), await countEffects(bench.pool, key)]).toEqual([2, 1]);
});

describe("the connection is lost while Postgres is still committing", () => {
  /** Held by the test; a constraint that is checked at COMMIT waits for it. */
  const commitLock = 4_711;
  beforeAll(async () => {
    await bench.pool.query(
      `CREATE FUNCTION wait_at_commit() RETURNS trigger LANGUAGE plpgsql
         AS 'BEGIN PERFORM pg_advisory_xact_lock_shared(${commitLock}); RETURN NULL; END'`,
    );
    await bench.pool.query(
      `CREATE CONSTRAINT TRIGGER waits AFTER INSERT ON effects DEFERRABLE INITIALLY DEFERRED
         FOR EACH ROW EXECUTE FUNCTION wait_at_commit()`,
    );
  });
  afterAll(async () => {
    await bench.pool.query("DROP TRIGGER waits ON effects");
  });

  /** Resolves when the shop waits for the transaction in doubt; whoever guesses never does. */
  async function settling(): Promise<number> {
    const { rows } = await waitFor(async () => {
      const found = await bench.pool.query<{ doubt: number[] }>(
        `SELECT pg_blocking_pids(pid) AS doubt FROM pg_stat_activity
          WHERE datname = current_database() AND wait_event = 'advisory' AND query LIKE '%pg_advisory_xact_lock($1%'`,
      );
      return found.rowCount === 1 ? found : undefined;
    });
    return rows[0]!.doubt[0]!;
  }

  test.each([
    ["which succeeds: 201 and one effect", true],
    ["which fails: 503 and nothing written", false],
  ])("settling waits for the COMMIT, %s", async (_name, succeeds) => {
    const key = newKey();
    const { proxy, shop } = await shopBehindProxy();
    const holder = await bench.pool.connect();
    try {
      await holder.query(`SELECT pg_advisory_lock(${commitLock})`);
      const cut = proxy.cutAt(commitMessage, { afterReply: false });
      const first = post(shop.url, "/transaction", { key });
      await cut;
      const doubt = await settling();
      if (!succeeds) await bench.pool.query("SELECT pg_terminate_backend($1)", [doubt]);
      await holder.query(`SELECT pg_advisory_unlock(${commitLock})`);
      const answer = await first;
      expect(outcome(answer)).toEqual(succeeds ? [201, undefined] : [503, "store_unavailable"]);
      expect(await countEffects(bench.pool, key)).toBe(succeeds ? 1 : 0);
      const again = await retry(shop.url, "/transaction", { key });
      expect([again.status, again.bytes.equals(answer.bytes)]).toEqual([201, succeeds]);
      expect(await countEffects(bench.pool, key)).toBe(1);
    } finally {
      holder.release(true);
    }
  });
});

test("the reply to the claim of a transaction route is lost: it runs once all the same", async () => {
  const key = newKey();
  const { proxy, shop } = await shopBehindProxy();
  const cut = proxy.cutAt(statement("tx-begin"));
  const made = await retry(shop.url, "/transaction", { key });
  await cut;
  expect([made.status, made.headers["idempotent-replayed"]]).toEqual([201, undefined]);
  expect([bench.gate.runs(key), await countEffects(bench.pool, key)]).toEqual([1, 1]);
});

test("the reply to the claim of a plain route is lost: its handler runs once, and is stored", async () => {
  const key = newKey();
  const { proxy, shop } = await shopBehindProxy();
  const cut = proxy.cutAt(statement("claim"));
  const made = await post(shop.url, "/plain", { key });
  await cut;
  expect(outcome(made)).toEqual([201, undefined]);
  const replayed = await post(shop.url, "/plain", { key });
  expect(replayed.bytes.equals(made.bytes)).toBe(true);
  expect([bench.gate.runs(key), await stateOf(bench.pool, key)]).toEqual([1, "completed"]);
});

test("the reply to the claim is lost and Postgres stays away: 503, the key is given back, the retry runs", async () => {
  const key = newKey();
  const { proxy, shop } = await shopBehindProxy({ claimTimeoutMs: 1_000 });
  const cut = proxy.cutAt(statement("claim")).then(() => proxy.refuse());
  const first = await post(shop.url, "/plain", { key });
  await cut;
  expect([...outcome(first), first.headers["retry-after"]]).toEqual([
    503,
    "store_unavailable",
    "1",
  ]);
  expect(await stateOf(bench.pool, key)).toBe("running");
  proxy.heal();
  // Far sooner than the lease of 30 s would be over.
  await waitFor(async () => (await stateOf(bench.pool, key)) === undefined);
  const made = await retry(shop.url, "/plain", { key });
  expect([made.status, made.headers["idempotent-replayed"]]).toEqual([201, undefined]);
  expect(bench.gate.runs(key)).toBe(1);
});

test("the reply to complete is lost: the response is sent once it is known to be stored", async () => {
  const key = newKey();
  const { proxy, shop } = await shopBehindProxy();
  const cut = proxy.cutAt(statement("complete"));
  const made = await post(shop.url, "/plain", { key });
  await cut;
  expect([made.status, made.headers["idempotency-stored"]]).toEqual([201, undefined]);
  const replayed = await post(shop.url, "/plain", { key });
  expect([replayed.status, replayed.headers["idempotent-replayed"]]).toEqual([201, "true"]);
  expect(replayed.bytes.equals(made.bytes)).toBe(true);
  expect(bench.gate.runs(key)).toBe(1);
});

test("complete never arrives and Postgres is away: no byte leaves before the response is durable", async () => {
  const key = newKey();
  const { proxy, shop } = await shopBehindProxy();
  const cut = proxy.cutAt(statement("complete"), { forward: false }).then(() => proxy.refuse());
  let answered = false;
  const first = post(shop.url, "/plain", { key }).finally(() => (answered = true));
  await cut;
  await waitFor(() => proxy.refused >= 3);
  expect([answered, await stateOf(bench.pool, key)]).toEqual([false, "running"]);
  proxy.heal();
  const made = await first;
  expect([made.status, made.headers["idempotency-stored"]]).toEqual([201, undefined]);
  expect((await post(shop.url, "/plain", { key })).bytes.equals(made.bytes)).toBe(true);
  expect(bench.gate.runs(key)).toBe(1);
});
