/**
 * A route that allows a rerun, a response too large to store, and Postgres away: its row could not be marked
 * `response_not_stored`, and the response was streamed all the same. Had the process died then, a retry would have run again
 * and answered something else to a client that had its answer. DESIGN, section 2, invariant 3, and section 8, rule 16: only
 * a route without rerun may send what is not durable.
 */
import { waitFor } from "../support/wait-for.js";
import { useBench } from "../faults/bench.js";
import { newKey, outcome, post, retry } from "../faults/client.js";
import { stateOf } from "../faults/shop.js";

const bench = useBench();

test("a large response of a rerun route that cannot be marked is not sent: 503", async () => {
  const key = newKey();
  const proxy = await bench.proxy();
  const shop = await bench.shop({
    databaseUrl: proxy.via(bench.databaseUrl),
    idempotency: { completeTimeoutMs: 1_000 },
  });
  bench.gate.hold(key);
  const first = post(shop.url, "/rerun-large", { key });
  await bench.gate.arrival(key);
  proxy.refuse();
  bench.gate.open(key);
  expect(outcome(await first)).toEqual([503, "store_unavailable"]);

  proxy.heal();
  await waitFor(async () => (await stateOf(bench.pool, key)) === "completed");
  // The work was done once, and is never repeated while its process lives.
  expect(outcome(await retry(shop.url, "/rerun-large", { key }))).toEqual([
    409,
    "response_not_stored",
  ]);
  expect(bench.gate.runs(key)).toBe(1);
});
