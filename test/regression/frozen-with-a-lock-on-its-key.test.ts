/**
 * The story: a process froze between two statements of a transaction on the store's own connections: while it put a message of
 * `steps.send` into the outbox, and while it settled a COMMIT whose reply was lost. Both lock the row of the key. Who holds that
 * lock counts as alive, and nothing ended the transaction: no retry and no completer could go on with the checkout for as long
 * as the process stood still. Only statements had a time limit, and none was running.
 *
 * Postgres now ends such a transaction when it has been idle for the store's time limit.
 */
import {
  effectsOf,
  onceEach,
  onSale,
  openShop,
  path,
  type Shop,
} from "../faults/checkout-bench.js";
import { newKey, post, retry } from "../faults/client.js";
import type { Held, TcpProxy } from "../support/tcp-proxy.js";

let shop: Shop;
beforeAll(async () => {
  shop = await openShop();
});
afterAll(() => shop.end());

const commit = /COMMIT\0/;

test.each<[string, (line: TcpProxy) => Promise<Held>]>([
  ["sending", (line) => line.holdAt(commit, { nth: 3 })],
  [
    "settling",
    async (line) => {
      const settling = line.holdAt("FOR UPDATE OF k", { reply: true });
      await line.cutAt(commit);
      return settling;
    },
  ],
])("a process that stands still while it is %s keeps nobody from its key", async (_what, stop) => {
  const node = await shop.node();
  const other = await shop.server();
  const call = await onSale(shop, newKey());
  const first = post(node.url, path, call).catch(() => undefined);
  const held = await stop(node.postgres);
  node.server.freeze();
  const made = await retry(other.url, path, call);
  expect(made.status).toBe(201);
  node.server.thaw();
  held.release();
  await first;
  expect(await effectsOf(shop, call.key)).toEqual(onceEach);
  await node.end();
});
