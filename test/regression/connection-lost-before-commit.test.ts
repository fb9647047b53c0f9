/**
 * The handler of a transaction route has answered, and the connection is gone before the response is stored. Nothing was
 * committed, which is certain, since COMMIT was never sent. Yet the client was told 500 `transaction_failed` by way of the
 * app's error handler, as if the handler were to blame: an alarm for each open transaction at every failover, and no
 * Retry-After. DESIGN, section 3: transaction routes answer 503.
 */
import { useBench } from "../faults/bench.js";
import { newKey, outcome, post, retry } from "../faults/client.js";
import { countEffects } from "../faults/shop.js";

const bench = useBench();

test("a connection that is lost before COMMIT is a 503: nothing is written, and the retry runs", async () => {
  const key = newKey();
  const proxy = await bench.proxy();
  const shop = await bench.shop({ databaseUrl: proxy.via(bench.databaseUrl) });
  bench.gate.hold(key);
  const first = post(shop.url, "/transaction", { key });
  await bench.gate.arrival(key);
  proxy.cutAll();
  bench.gate.open(key);
  const refused = await first;
  expect([...outcome(refused), refused.headers["retry-after"]]).toEqual([
    503,
    "store_unavailable",
    "1",
  ]);
  expect(await countEffects(bench.pool, key)).toBe(0);
  const made = await retry(shop.url, "/transaction", { key });
  expect([made.status, await countEffects(bench.pool, key)]).toEqual([201, 1]);
});
