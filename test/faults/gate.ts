/**
 * Where handlers of test programs report and wait. It lives in the test's process and in no database, so it counts the
 * runs of a handler whatever is stopped, frozen or cut meanwhile.
 */
import { createServer, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";

import { waitFor } from "../support/wait-for.js";

export type Gate = {
  readonly url: string;
  /** From now on handlers of this key wait at the gate, until `open`. */
  hold(key: string): void;
  /** Resolves when so many handlers of this key have come to the gate since the start. */
  arrival(key: string, count?: number): Promise<void>;
  /** Lets through who waits and whoever comes later. */
  open(key: string): void;
  /** Lets through the one that has waited longest; later ones still wait. */
  openOnce(key: string): void;
  /** How often a handler of this key ran. */
  runs(key: string): number;
  close(): Promise<void>;
};

export async function startGate(): Promise<Gate> {
  const held = new Map<string, ServerResponse[]>();
  const counts = new Map<string, number>();
  const server = createServer((req, res) => {
    const key = decodeURIComponent((req.url ?? "/").slice(1));
    counts.set(key, (counts.get(key) ?? 0) + 1);
    res.setHeader("Connection", "close");
    const waiting = held.get(key);
    if (waiting === undefined) res.end();
    else waiting.push(res);
  });
  await new Promise<void>((done) => {
    server.listen(0, "127.0.0.1", done);
  });
  const { port } = server.address() as AddressInfo;
  const runs = (key: string): number => counts.get(key) ?? 0;
  return {
    url: `http://127.0.0.1:${port}`,
    hold: (key) => void held.set(key, held.get(key) ?? []),
    arrival: async (key, count = 1) => {
      await waitFor(() => runs(key) >= count, { what: `run ${count} of ${key}` });
    },
    open: (key) => {
      const waiting = held.get(key) ?? [];
      held.delete(key);
      for (const res of waiting) res.end();
    },
    openOnce: (key) => void held.get(key)?.shift()?.end(),
    runs,
    close: async () => {
      server.closeAllConnections();
      await new Promise<void>((done) => {
        server.close(() => done());
      });
    },
  };
}
