/**
 * A handler that throws when it has ended its response. On bare Express its client has the response by then; what the last error
 * handler of Express destroys is a connection which, under a key, still waits for the store.
 */
import { once } from "node:events";
import type { Server } from "node:http";
import { connect, type AddressInfo, type Socket } from "node:net";

import type { Request } from "express";

import type { Store } from "../../src/core/ports.js";
import { memoryStore } from "../../src/stores/memory.js";
import { waitFor } from "../support/wait-for.js";
import { keyedApp } from "./keyed-app.js";

const throwing = "after the end";
let server: Server | undefined;
afterEach(() => {
  server?.closeAllConnections();
  server?.close();
});

test("sends the response, and replays it", async () => {
  const { post } = keyedApp((_req, res) => {
    res.status(201).json({ id: 1 });
    throw new Error(throwing);
  });
  for (const key of [undefined, "sent", "sent"]) await post(key).expect(201, { id: 1 });
});

test("keeps the connection until the response is stored and sent, and no longer", async () => {
  const memory = memoryStore();
  let mayStore: () => void = () => undefined;
  const gate = new Promise<void>((open) => (mayStore = open));
  let isStoring = false;
  const store: Store = {
    ...memory,
    complete: async (claim, completion) => {
      isStoring = true;
      await gate;
      return memory.complete(claim, completion);
    },
  };
  let seen: { req: Request; socket: Socket } | undefined;
  const { app } = keyedApp(
    (req, res) => {
      seen = { req, socket: req.socket };
      res.status(201).send("x".repeat(100_000));
      throw new Error(throwing);
    },
    { options: { store } },
  );
  server = app.listen(0, "127.0.0.1");
  server.keepAliveTimeout = 0;
  await once(server, "listening");
  const client = connect((server.address() as AddressInfo).port, "127.0.0.1");
  const chunks: Buffer[] = [];
  client.on("error", () => undefined);
  client.on("data", (chunk: Buffer) => chunks.push(chunk));
  client.write(
    "POST /orders HTTP/1.1\r\nHost: test\r\nIdempotency-Key: slow\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
  );
  await waitFor(() => isStoring);
  await new Promise(setImmediate);
  expect([seen?.socket.destroyed, chunks.length]).toEqual([false, 0]);
  mayStore();
  // Neither the client nor an idle time has asked for it.
  await once(client, "close");
  const received = Buffer.concat(chunks).toString();
  expect(received).toMatch(/^HTTP\/1.1 201 Created\r\n/);
  expect(received.endsWith("x".repeat(100_000))).toBe(true);
  expect(seen?.req.socket).toBe(seen?.socket);
});

test("may destroy the response that it has ended, as apps on bare Node do", async () => {
  const { post } = keyedApp((_req, res) => {
    res.status(201).json({ id: 1 });
    res.destroy();
  });
  for (const key of [undefined, "destroyed", "destroyed"]) await post(key).expect(201, { id: 1 });
});

test("a connection that is destroyed before the end is gone", async () => {
  const { post } = keyedApp((req) => void req.socket.destroy());
  await expect(post("gone")).rejects.toThrow("socket hang up");
});
