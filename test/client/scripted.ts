/** A server that answers as it is told, one answer after the other, and a clock on which nobody waits. */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";

import type { ClientClock } from "../../src/client/client.js";

export type Scripted =
  | "cut"
  | "cut in the body"
  | "hang"
  | { status: number; headers?: Record<string, string>; body?: string | object };

export type Received = {
  method: string;
  url: string;
  headers: IncomingMessage["headers"];
  body: Buffer;
};

export type ScriptedServer = {
  readonly url: string;
  readonly received: Received[];
  /** What the next requests get; the last one stays. */
  answer(...answers: Scripted[]): void;
};

export function useScriptedServer(): ScriptedServer {
  let server: Server;
  let script: Scripted[] = [];
  const received: Received[] = [];

  const reply = (res: ServerResponse): void => {
    const [next = "cut"] = script;
    if (script.length > 1) script.shift();
    if (next === "hang") return;
    if (next === "cut") return void res.socket?.destroy();
    if (next === "cut in the body") {
      res.writeHead(201, { "Content-Length": "100" });
      // Cut once the first half has left, or the reply would be lost from its first byte.
      res.write("{", () => res.socket?.destroy());
      return;
    }
    const { status, headers = {}, body = "" } = next;
    const isText = typeof body === "string";
    res.writeHead(status, { ...(!isText && { "Content-Type": "application/json" }), ...headers });
    res.end(isText ? body : JSON.stringify(body));
  };

  beforeAll(async () => {
    server = createServer((req, res) => {
      const chunks: Buffer[] = [];
      req.on("data", (chunk: Buffer) => chunks.push(chunk));
      req.on("end", () => {
        const { method = "", url = "", headers } = req;
        received.push({ method, url, headers, body: Buffer.concat(chunks) });
        reply(res);
      });
    });
    await new Promise<void>((done) => void server.listen(0, "127.0.0.1", done));
  });
  afterAll(async () => {
    server.closeAllConnections();
    await new Promise<void>((done) => void server.close(() => done()));
  });

  return {
    get url() {
      return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
    },
    received,
    answer(...answers) {
      script = answers;
      received.length = 0;
    },
  };
}

export type TestClock = ClientClock & {
  /** The pauses between attempts, in milliseconds. */
  readonly pausesMs: number[];
  /** Lets the time limit of the attempt that runs come. */
  expire(): void;
};

/** Pauses are noted and not waited for; half of every pause is drawn; it is 2026-01-01. */
export function testClock(): TestClock {
  const pausesMs: number[] = [];
  const timers = new Set<() => void>();
  return {
    pausesMs,
    nowMs: () => Date.parse("2026-01-01T00:00:00Z"),
    random: () => 0.5,
    sleep: async (ms) => void pausesMs.push(ms),
    after: (_ms, work) => {
      timers.add(work);
      return () => timers.delete(work);
    },
    expire: () => timers.forEach((work) => work()),
  };
}
