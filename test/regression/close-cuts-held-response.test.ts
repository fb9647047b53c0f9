/**
 * A response that its handler has ended and that the store has not confirmed yet was shown as `finished`. By that word
 * `server.close()` tells idle connections, so that a shutdown cut the connections of requests whose work was done: their
 * clients saw "socket hang up" in place of the answer that was about to be stored.
 */
import { once } from "node:events";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import express from "express";
import { createIdempotency } from "../../src/index.js";
import { memoryStore } from "../../src/stores/memory.js";
import { waitFor } from "../support/wait-for.js";

test("closing the server leaves a response that is being stored its connection", async () => {
  const store = memoryStore();
  let mayStore: () => void = () => undefined;
  const gate = new Promise<void>((open) => (mayStore = open));
  let isStoring = false;
  const idempotent = createIdempotency({
    store: {
      ...store,
      complete: async (claim, completion) => {
        isStoring = true;
        await gate;
        return store.complete(claim, completion);
      },
    },
    scope: "global",
  });
  const app = express();
  app.use(express.json());
  app.post("/orders", idempotent(), (_req, res) => void res.status(201).json({ id: "order_1" }));
  const server = createServer(app).listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;

  const answer = fetch(`http://127.0.0.1:${port}/orders`, {
    method: "POST",
    headers: { "content-type": "application/json", "idempotency-key": "close-1" },
    body: "{}",
  });
  await waitFor(() => isStoring);
  server.close();
  server.closeIdleConnections();
  mayStore();
  const response = await answer;
  expect([response.status, await response.json()]).toEqual([201, { id: "order_1" }]);
  server.closeAllConnections();
  await idempotent.close();
});
