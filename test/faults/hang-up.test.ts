/** Clients that hang up. DESIGN, section 3: the handler goes on, the result is stored, the retry replays it. */
import { waitFor } from "../support/wait-for.js";
import { useBench } from "./bench.js";
import { newKey, outcome, post } from "./client.js";
import { countEffects, type Shop, stateOf } from "./shop.js";

const bench = useBench();

/** Sends a request, waits until its handler runs, hangs up, and lets the handler go on once the server knows. */
async function hangUp(shop: Shop, path: string, key: string): Promise<void> {
  bench.gate.hold(key);
  const leaving = new AbortController();
  const call = { key, signal: leaving.signal };
  const lost = post(shop.url, path, call).catch((error: Error) => error.name);
  await bench.gate.arrival(key);
  leaving.abort();
  expect(await lost).toBe("AbortError");
  await shop.waitForOutput(/client gone/);
  bench.gate.open(key);
}

test.each([
  ["/plain", /^\{"id":"[\w-]{36}","pid":\d+\}$/, 0],
  ["/rerun", /^\{"id":"[\w-]{36}","pid":\d+\}$/, 0],
  ["/pipe", /^first [\w-]{36}\nsecond [\w-]{36}\n$/, 0],
  ["/transaction", /^\{"id":"[\w-]{36}","pid":\d+\}$/, 1],
])(
  "the client of %s hangs up in the middle: its retry gets the result",
  async (path, body, rows) => {
    const key = newKey();
    const shop = await bench.shop();
    await hangUp(shop, path, key);
    await waitFor(async () => (await stateOf(bench.pool, key)) === "completed");
    const replayed = await post(shop.url, path, { key });
    expect([replayed.status, replayed.headers["idempotent-replayed"]]).toEqual([201, "true"]);
    expect(replayed.bytes.toString()).toMatch(body);
    expect([bench.gate.runs(key), await countEffects(bench.pool, key)]).toEqual([1, rows]);
  },
);

test("a response beyond the maximum whose client has hung up is done, noted, and never done again", async () => {
  const key = newKey();
  const shop = await bench.shop();
  await hangUp(shop, "/rerun-large", key);
  await waitFor(async () => (await stateOf(bench.pool, key)) === "completed");
  expect(outcome(await post(shop.url, "/rerun-large", { key }))).toEqual([
    409,
    "response_not_stored",
  ]);
  expect(bench.gate.runs(key)).toBe(1);
});
