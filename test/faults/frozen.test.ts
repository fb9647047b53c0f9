/** Processes that stand still past their lease and then go on as if nothing had been. */
import { waitFor } from "../support/wait-for.js";
import { useBench } from "./bench.js";
import { newKey, outcome, post, retry } from "./client.js";
import { countEffects, moveClock, stateOf } from "./shop.js";

const bench = useBench();

const leaseMs = 30_000;

test("a plain route: nobody else runs it meanwhile, and the late response counts", async () => {
  const key = newKey();
  const [frozen, other] = [await bench.shop(), await bench.shop()];
  bench.gate.hold(key);
  const first = post(frozen.url, "/plain", { key });
  await bench.gate.arrival(key);
  frozen.freeze();
  expect(outcome(await post(other.url, "/plain", { key }))).toEqual([409, "in_progress"]);
  await moveClock(bench.pool, leaseMs + 1_000);
  expect(outcome(await post(other.url, "/plain", { key }))).toEqual([409, "outcome_unknown"]);

  frozen.thaw();
  bench.gate.open(key);
  const late = await first;
  expect([...outcome(late), late.headers["idempotency-stored"]]).toEqual([
    201,
    undefined,
    undefined,
  ]);
  for (const { url } of [other, frozen]) {
    const replayed = await post(url, "/plain", { key });
    expect([replayed.status, replayed.headers["idempotent-replayed"]]).toEqual([201, "true"]);
    expect(replayed.bytes.equals(late.bytes)).toBe(true);
  }
  expect(bench.gate.runs(key)).toBe(1);
});

test("with rerun: another process takes over, and the frozen one sends that one's answer", async () => {
  const key = newKey();
  const [frozen, other] = [await bench.shop(), await bench.shop()];
  bench.gate.hold(key);
  const first = post(frozen.url, "/rerun", { key });
  await bench.gate.arrival(key);
  frozen.freeze();
  await moveClock(bench.pool, leaseMs + 1_000);
  bench.gate.open(key);
  const made = await post(other.url, "/rerun", { key });
  expect(JSON.parse(made.bytes.toString())).toMatchObject({ pid: other.pid });

  frozen.thaw();
  const late = await first;
  expect([late.status, late.headers["idempotent-replayed"]]).toEqual([201, "true"]);
  expect(late.bytes.equals(made.bytes)).toBe(true);
  const replayed = await post(other.url, "/rerun", { key });
  expect(replayed.bytes.equals(made.bytes)).toBe(true);
  expect(bench.gate.runs(key)).toBe(2);
});

test("with rerun: the frozen one cannot complete while the other still runs", async () => {
  const key = newKey();
  const [frozen, other] = [await bench.shop(), await bench.shop()];
  bench.gate.hold(key);
  const first = post(frozen.url, "/rerun", { key });
  await bench.gate.arrival(key);
  frozen.freeze();
  await moveClock(bench.pool, leaseMs + 1_000);
  const second = post(other.url, "/rerun", { key });
  await bench.gate.arrival(key, 2);

  frozen.thaw();
  bench.gate.openOnce(key);
  expect(outcome(await first)).toEqual([409, "outcome_unknown"]);
  expect(await stateOf(bench.pool, key)).toBe("running");
  bench.gate.open(key);
  const made = await second;
  expect(JSON.parse(made.bytes.toString())).toMatchObject({ pid: other.pid });
  expect((await post(frozen.url, "/rerun", { key })).bytes.equals(made.bytes)).toBe(true);
  expect(bench.gate.runs(key)).toBe(2);
});

test("a handler that outlives its lease keeps it by its heartbeats", async () => {
  const key = newKey();
  const alive = await bench.shop({ idempotency: { leaseMs: 5_000, heartbeatMs: 50 } });
  const other = await bench.shop();
  bench.gate.hold(key);
  const first = post(alive.url, "/rerun", { key });
  await bench.gate.arrival(key);
  const leaseUntil = async (): Promise<number> => {
    const { rows } = await bench.pool.query<{ lease_until: Date }>(
      "SELECT lease_until FROM idempotency_keys WHERE key = $1",
      [key],
    );
    return rows[0]?.lease_until.getTime() ?? 0;
  };
  const begun = await leaseUntil();
  // Each step is shorter than the lease; together they are four of it.
  for (let step = 1; step <= 5; step += 1) {
    await moveClock(bench.pool, step * 4_000);
    await waitFor(async () => (await leaseUntil()) >= begun + step * 4_000);
    expect(outcome(await post(other.url, "/rerun", { key }))).toEqual([409, "in_progress"]);
  }
  bench.gate.open(key);
  const made = await first;
  expect((await post(other.url, "/rerun", { key })).bytes.equals(made.bytes)).toBe(true);
  expect(bench.gate.runs(key)).toBe(1);
});

test("a transaction route: Postgres ends the transaction, a retry runs, and the frozen one commits nothing", async () => {
  const key = newKey();
  const frozen = await bench.shop({ transactionTimeoutMs: 1_000 });
  const other = await bench.shop();
  bench.gate.hold(key);
  const first = post(frozen.url, "/transaction", { key });
  await bench.gate.arrival(key);
  frozen.freeze();
  expect(outcome(await post(other.url, "/transaction", { key }))).toEqual([409, "in_progress"]);
  bench.gate.open(key);
  const made = await retry(other.url, "/transaction", { key });
  expect(JSON.parse(made.bytes.toString())).toMatchObject({ pid: other.pid });

  frozen.thaw();
  const late = await first;
  // Whatever it says, it is no success of its own and it is worth a retry.
  expect(late.status).toBeGreaterThanOrEqual(500);
  for (const { url } of [frozen, other]) {
    const replayed = await post(url, "/transaction", { key });
    expect([replayed.status, replayed.headers["idempotent-replayed"]]).toEqual([201, "true"]);
    expect(replayed.bytes.equals(made.bytes)).toBe(true);
  }
  expect([bench.gate.runs(key), await countEffects(bench.pool, key)]).toEqual([2, 1]);
});
