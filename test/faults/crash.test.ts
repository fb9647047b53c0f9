/** kill -9 at the moments that matter. DESIGN, section 2: what each kind of route promises after a crash. */
import { waitFor } from "../support/wait-for.js";
import { commitMessage, useBench } from "./bench.js";
import { newKey, outcome, post } from "./client.js";
import { countEffects, moveClock, stateOf } from "./shop.js";

const bench = useBench();

const leaseMs = 30_000;
const charge = (source: string) => ({ amount: 2000, currency: "eur", source });
const order = (customer: string) => ({
  currency: "eur",
  customer,
  items: [{ sku: "mug", quantity: 1, unit_amount: 900 }],
});

async function count(table: "charges" | "orders", key: string): Promise<number> {
  const { rows } = await bench.pool.query<{ count: number }>(
    `SELECT count(*)::int AS count FROM ${table} WHERE idempotency_key = $1`,
    [key],
  );
  return rows[0]?.count ?? 0;
}

/** The answer that never came: the process that owed it is dead. */
async function neverAnswered(answer: Promise<unknown>): Promise<void> {
  await expect(answer).rejects.toThrow(/socket hang up|ECONNRESET/);
}

test("a charge killed between claim and commit leaves nothing behind, and its retry makes it", async () => {
  const key = newKey();
  const call = { key, body: charge("tok_slow_10000") };
  const first = await bench.server();
  const lost = post(first.url, "/v1/charges", call);
  const killed = neverAnswered(lost);
  // Claimed, its row written, and not committed.
  await waitFor(async () => {
    const { rowCount } = await bench.pool.query(
      `SELECT 1 FROM pg_stat_activity WHERE datname = current_database()
          AND state = 'idle in transaction' AND query LIKE 'INSERT INTO charges%'`,
    );
    return rowCount === 1;
  });
  await first.kill();
  await killed;

  const second = await bench.server();
  expect([await count("charges", key), await stateOf(bench.pool, key)]).toEqual([0, undefined]);
  const other = { key, body: charge("tok_visa") };
  const made = await waitFor(async () => {
    const answer = await post(second.url, "/v1/charges", other);
    return answer.code === "in_progress" ? undefined : answer;
  });
  // Nothing was left behind, not even a fingerprint: another request may take the key.
  expect(outcome(made)).toEqual([201, undefined]);
  expect(made.headers["idempotent-replayed"]).toBeUndefined();
  const replayed = await post(second.url, "/v1/charges", other);
  expect(replayed.bytes.equals(made.bytes)).toBe(true);
  expect(await count("charges", key)).toBe(1);
});

test("an order killed before its response is never placed again: 409 until somebody knows more", async () => {
  const key = newKey();
  const call = { key, body: order("slow_10000") };
  const first = await bench.server();
  const killed = neverAnswered(post(first.url, "/v1/orders", call));
  await waitFor(async () => (await count("orders", key)) === 1);
  await first.kill();
  await killed;

  const second = await bench.server();
  const during = await post(second.url, "/v1/orders", call);
  expect([...outcome(during), during.headers["retry-after"]]).toEqual([409, "in_progress", "1"]);
  const other = await post(second.url, "/v1/orders", { key, body: order("slow_1") });
  expect(outcome(other)).toEqual([422, "key_reused"]);
  await moveClock(bench.pool, leaseMs + 1_000);
  for (let tries = 0; tries < 3; tries += 1) {
    const after = await post(second.url, "/v1/orders", call);
    expect(outcome(after)).toEqual([409, "outcome_unknown"]);
    expect(after.headers["retry-after"]).toBeUndefined();
  }
  expect(await count("orders", key)).toBe(1);
});

test("a route that allows a rerun runs again when the lease is over, and not before", async () => {
  const key = newKey();
  const first = await bench.shop();
  bench.gate.hold(key);
  const killed = neverAnswered(post(first.url, "/rerun", { key }));
  await bench.gate.arrival(key);
  await first.kill();
  await killed;
  bench.gate.open(key);

  const second = await bench.shop();
  expect(outcome(await post(second.url, "/rerun", { key }))).toEqual([409, "in_progress"]);
  expect(bench.gate.runs(key)).toBe(1);
  await moveClock(bench.pool, leaseMs + 1_000);
  const made = await post(second.url, "/rerun", { key });
  expect(outcome(made)).toEqual([201, undefined]);
  const replayed = await post(second.url, "/rerun", { key });
  expect(replayed.bytes.equals(made.bytes)).toBe(true);
  expect(bench.gate.runs(key)).toBe(2);
});

test("a charge killed between commit and first byte is replayed by the next process", async () => {
  const key = newKey();
  const call = { key, body: charge("tok_visa") };
  const proxy = await bench.proxy();
  const first = await bench.server({ DATABASE_URL: proxy.via(bench.databaseUrl) });
  // The reply to COMMIT is lost, and the process cannot ask again: it lives, and does not know.
  const committed = proxy.cutAt(commitMessage).then(() => proxy.refuse());
  const killed = neverAnswered(post(first.url, "/v1/charges", call));
  await committed;
  await first.kill();
  await killed;
  expect([await count("charges", key), await stateOf(bench.pool, key)]).toEqual([1, "completed"]);
  const { rows } = await bench.pool.query<{ body: Buffer }>(
    "SELECT body FROM idempotency_keys WHERE key = $1",
    [key],
  );

  const second = await bench.server();
  const replayed = await post(second.url, "/v1/charges", call);
  expect([replayed.status, replayed.headers["idempotent-replayed"]]).toEqual([201, "true"]);
  expect(replayed.bytes.equals(rows[0]!.body)).toBe(true);
  expect(await count("charges", key)).toBe(1);
});

test("a plain route killed between its stored response and the first byte is replayed too", async () => {
  const key = newKey();
  const proxy = await bench.proxy();
  const first = await bench.shop({ databaseUrl: proxy.via(bench.databaseUrl) });
  const stored = proxy.cutAt(/oncekey_complete\0/).then(() => proxy.refuse());
  const killed = neverAnswered(post(first.url, "/plain", { key }));
  await stored;
  await first.kill();
  await killed;

  const second = await bench.shop();
  const replayed = await post(second.url, "/plain", { key });
  expect([replayed.status, replayed.headers["idempotent-replayed"]]).toEqual([201, "true"]);
  expect(JSON.parse(replayed.bytes.toString())).toMatchObject({ pid: first.pid });
  expect([bench.gate.runs(key), await countEffects(bench.pool, key)]).toEqual([1, 0]);
});
