/** Postgres that stops, crashes, hangs and comes back. DESIGN, section 3: nothing runs without it, nothing is guessed. */
import { startPostgres, type PostgresServer } from "../support/postgres-server.js";
import { waitFor } from "../support/wait-for.js";
import { useBench } from "./bench.js";
import { newKey, outcome, post, retry } from "./client.js";
import { countEffects, stateOf } from "./shop.js";
import { complaints, startTraffic } from "./traffic.js";

let postgres: PostgresServer;
let isDown = false;
beforeAll(async () => {
  postgres = await startPostgres();
});
// Before the hooks of the bench: a test that failed half way must not take the others with it.
afterEach(async () => {
  postgres.thaw();
  if (isDown) await restart();
});
const bench = useBench(() => postgres.url);

const paths = ["/plain", "/transaction"] as const;
/** Short enough for a test; each path through them is the same as with the defaults. */
const patience = {
  connectTimeoutMs: 1_000,
  storeTimeoutMs: 1_200,
  poolSize: 3,
  idempotency: { claimTimeoutMs: 1_000, completeTimeoutMs: 5_000 },
};
const impatience = {
  ...patience,
  idempotency: { claimTimeoutMs: 1_000, completeTimeoutMs: 1_000 },
};

async function stop(mode?: "fast" | "immediate"): Promise<void> {
  isDown = true;
  await postgres.stop(mode);
}

async function restart(): Promise<void> {
  await postgres.restart();
  isDown = false;
}

test.each(["fast", "immediate"] as const)(
  "a %s stop and a restart in the middle of traffic: every key has one effect or an honest outcome",
  async (mode) => {
    const shops = [await bench.shop(patience), await bench.shop(patience)];
    const traffic = startTraffic({
      clients: 6,
      routes: paths.map((path) => ({ path, body: {} })),
      urls: () => shops.map(({ url }) => url),
    });
    await traffic.progress(20);
    await stop(mode);
    for (const path of paths) {
      const key = newKey();
      const refused = await post(shops[0]!.url, path, { key });
      expect([...outcome(refused), refused.headers["retry-after"]]).toEqual([
        503,
        "store_unavailable",
        "1",
      ]);
      expect(bench.gate.runs(key)).toBe(0);
    }
    await restart();
    await traffic.progress(20);
    const stories = await traffic.finish();
    for (const story of stories) {
      const isTransaction = story.path === "/transaction";
      const effects = isTransaction
        ? await countEffects(bench.pool, story.key)
        : bench.gate.runs(story.key);
      expect(complaints(story, effects)).toEqual([]);
      expect([story.path, story.stored.size]).toEqual([story.path, 1]);
    }
    expect(stories.some((story) => story.refusals.has("503 store_unavailable"))).toBe(true);
  },
);

test("a plain handler that ran while Postgres went away: the true response, stored when Postgres is back", async () => {
  const key = newKey();
  const [shop, other] = [await bench.shop(impatience), await bench.shop(impatience)];
  bench.gate.hold(key);
  const first = post(shop.url, "/plain", { key });
  await bench.gate.arrival(key);
  await stop();
  bench.gate.open(key);
  const made = await first;
  expect([made.status, made.headers["idempotency-stored"]]).toEqual([201, "false"]);
  expect(made.headers["idempotent-replayed"]).toBeUndefined();
  expect(outcome(await post(shop.url, "/plain", { key }))).toEqual([409, "in_progress"]);
  expect(outcome(await post(other.url, "/plain", { key }))).toEqual([503, "store_unavailable"]);

  await restart();
  await waitFor(async () => (await stateOf(bench.pool, key)) === "completed");
  for (const { url } of [shop, other]) {
    const replayed = await retry(url, "/plain", { key });
    expect([replayed.status, replayed.headers["idempotent-replayed"]]).toEqual([201, "true"]);
    expect(replayed.bytes.equals(made.bytes)).toBe(true);
  }
  expect(bench.gate.runs(key)).toBe(1);
});

test("a rerun handler that ran while Postgres went away: 503, since a rerun may answer something else", async () => {
  const key = newKey();
  const shop = await bench.shop(impatience);
  bench.gate.hold(key);
  const first = post(shop.url, "/rerun", { key });
  await bench.gate.arrival(key);
  await stop();
  bench.gate.open(key);
  expect(outcome(await first)).toEqual([503, "store_unavailable"]);
  await restart();
  const replayed = await retry(shop.url, "/rerun", { key });
  expect([replayed.status, replayed.headers["idempotent-replayed"]]).toEqual([201, "true"]);
  expect(bench.gate.runs(key)).toBe(1);
});

test("a transaction whose Postgres went away: 503, nothing is written, and the retry runs", async () => {
  const key = newKey();
  const shop = await bench.shop(impatience);
  bench.gate.hold(key);
  const first = post(shop.url, "/transaction", { key });
  await bench.gate.arrival(key);
  await stop();
  bench.gate.open(key);
  expect(outcome(await first)).toEqual([503, "store_unavailable"]);
  await restart();
  expect(await countEffects(bench.pool, key)).toBe(0);
  const made = await retry(shop.url, "/transaction", { key });
  expect([made.status, made.headers["idempotent-replayed"]]).toEqual([201, undefined]);
  expect(await countEffects(bench.pool, key)).toBe(1);
});

test("a hung Postgres: 503 and nothing runs; afterwards every key is free and runs once", async () => {
  // No time limit frees what a claim has left behind before the test's own patience is at its end.
  const shop = await bench.shop({ ...impatience, transactionTimeoutMs: 60_000 });
  const calls = Array.from({ length: 8 }, (_, index) => ({
    path: paths[index % 2]!,
    key: newKey(),
  }));
  // Every connection of the pool is open, so that what is sent now lies in the sockets of frozen backends.
  const before = calls.slice(0, 6).map(({ path }) => retry(shop.url, path, { key: newKey() }));
  expect((await Promise.all(before)).map(({ status }) => status)).toEqual(before.map(() => 201));
  postgres.freeze();
  const refused = await Promise.all(calls.map(({ path, key }) => post(shop.url, path, { key })));
  expect(refused.map(outcome)).toEqual(calls.map(() => [503, "store_unavailable"]));
  expect(calls.map(({ key }) => bench.gate.runs(key))).toEqual(calls.map(() => 0));
  postgres.thaw();
  // More transactions at once than the pool has connections: none of those was lost in the hang.
  const made = await Promise.all(calls.map(({ path, key }) => retry(shop.url, path, { key })));
  expect(made.map(({ status }) => status)).toEqual(calls.map(() => 201));
  expect(calls.map(({ key }) => bench.gate.runs(key))).toEqual(calls.map(() => 1));
});

test("Postgres hangs while handlers run: their responses are held, then sent, and stored", async () => {
  const shop = await bench.shop(patience);
  const calls = paths.map((path) => ({ path, key: newKey() }));
  for (const { key } of calls) bench.gate.hold(key);
  const answers = calls.map(({ path, key }) => post(shop.url, path, { key }));
  for (const { key } of calls) await bench.gate.arrival(key);
  postgres.freeze();
  for (const { key } of calls) bench.gate.open(key);
  // Another request is refused meanwhile, so time has passed for those two as well.
  expect(outcome(await post(shop.url, "/plain", { key: newKey() }))).toEqual([
    503,
    "store_unavailable",
  ]);
  postgres.thaw();
  for (const [index, { path, key }] of calls.entries()) {
    const made = await answers[index]!;
    expect([made.status, made.headers["idempotency-stored"]]).toEqual([201, undefined]);
    const replayed = await retry(shop.url, path, { key });
    expect(replayed.bytes.equals(made.bytes)).toBe(true);
    expect(bench.gate.runs(key)).toBe(1);
  }
});
