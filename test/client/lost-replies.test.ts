/** The client in Node against the middleware, where replies are lost. */
import { createClient } from "../../src/client/client.js";
import type { TcpProxy } from "../support/tcp-proxy.js";
import { calls, lossyProxy, names } from "./lossy.js";
import { type Shop, startShop } from "./shop.js";

let shop: Shop;
let proxy: TcpProxy;

beforeAll(async () => {
  shop = await startShop();
  proxy = await lossyProxy(shop.url, 7);
});
afterAll(async () => {
  await proxy.close();
  await shop.close();
});

test("200 calls are 200 effects, and each gets the answer of its own", async () => {
  const send = createClient({ retries: 30, firstDelayMs: 5, maxDelayMs: 2_000 });
  const answers = await Promise.all(
    names.map(async (name) => {
      const response = await send(proxy.via(`${shop.url}/payments`), {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify({ name }),
      });
      return {
        status: response.status,
        body: (await response.json()) as { id: number; name: string },
      };
    }),
  );
  // The network was as bad as intended, or the rest proves nothing.
  expect(proxy.droppedReplies).toBeGreaterThan(calls * 0.3);
  expect(proxy.cutRequests).toBeGreaterThan(calls * 0.08);
  expect(answers.map(({ status, body }) => [status, body.name])).toEqual(
    names.map((name) => [201, name]),
  );
  expect(new Set(answers.map(({ body }) => body.id)).size).toBe(calls);
  expect(await shop.payments()).toEqual(names);
});
