/**
 * Random handlers under the recorder, on sockets. `RECORDER_RUNS` (default 150) says how many of each kind; a failure prints the
 * seed and the shortest handler that fails.
 */
import fc from "fast-check";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer, type ServerResponse } from "node:http";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";

import type { StoredResponse } from "../../src/core/record.js";
import { record } from "../../src/http/recorder.js";
import type { Recording } from "../../src/http/recording.js";
import { sendResponse } from "../../src/http/send-response.js";
import { programs, runProgram, type Call } from "./response-programs.js";

type Handler = (res: ServerResponse) => Promise<unknown>;

const numRuns = Number(process.env["RECORDER_RUNS"] ?? 150);
const folder = mkdtempSync(join(tmpdir(), "oncekey-recorder-"));
// A socket of the file system: thousands of connections use up no ports.
const path = join(folder, "http");
let current: Handler;
let failed: unknown;
const server = createServer((_req, res) => {
  res.sendDate = false;
  // What middleware in front sets on every response.
  res.setHeader("X-Powered-By", "node");
  res.setHeader("X-App", "app");
  res.setHeader("Link", ["<app>", "<more>"]);
  current(res).catch((error: unknown) => {
    failed = error;
    res.destroy();
  });
});

beforeAll(async () => {
  server.listen(path);
  await once(server, "listening");
});
afterAll(async () => {
  server.close();
  await once(server, "close");
  rmSync(folder, { recursive: true });
});

/** Every byte that the server says to one request. */
async function bytesOf(handler: Handler): Promise<Buffer> {
  current = handler;
  failed = undefined;
  const socket = connect(path);
  socket.write("POST / HTTP/1.1\r\nHost: test\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
  const chunks: Buffer[] = [];
  for await (const chunk of socket) chunks.push(chunk as Buffer);
  if (failed !== undefined) throw failed as Error;
  return Buffer.concat(chunks);
}

interface Parsed {
  readonly line: string;
  /** By name; of one name in their order. How the body is framed is left out. */
  readonly headers: readonly string[];
  readonly body: string;
}

const framing = /^(content-length|transfer-encoding):/i;

function parse(bytes: Buffer): Parsed {
  const end = bytes.indexOf("\r\n\r\n");
  const [line = "", ...headers] = bytes.subarray(0, end).toString("latin1").split("\r\n");
  const isChunked = headers.some((header) => /^transfer-encoding: chunked$/i.test(header));
  const rest = bytes.subarray(end + 4);
  const name = (header: string): string => header.slice(0, header.indexOf(":")).toLowerCase();
  return {
    line,
    headers: headers
      .filter((header) => !framing.test(header))
      .sort((one, other) => name(one).localeCompare(name(other))),
    body: (isChunked ? unchunked(rest) : rest).toString("hex"),
  };
}

function unchunked(bytes: Buffer): Buffer {
  const parts: Buffer[] = [];
  for (let at = 0; at < bytes.length;) {
    const lineEnd = bytes.indexOf("\r\n", at);
    const length = Number.parseInt(bytes.toString("latin1", at, lineEnd), 16);
    parts.push(bytes.subarray(lineEnd + 2, lineEnd + 2 + length));
    at = lineEnd + 4 + length;
  }
  return Buffer.concat(parts);
}

/** What a handler sends and sees without a recorder. */
async function onNode(calls: readonly Call[]): Promise<Parsed & { seen: readonly string[] }> {
  let seen: string[] = [];
  const bytes = await bytesOf(async (res) => (seen = await runProgram(res, calls)));
  return { ...parse(bytes), seen };
}

const check = (predicate: (calls: readonly Call[]) => Promise<void>): Promise<void> =>
  fc.assert(fc.asyncProperty(programs, predicate), { numRuns, timeout: 5_000 });

test("the first response is what Node would have sent, and its replay is the same bytes", async () => {
  await check(async (calls) => {
    const bare = await onNode(calls);
    const kept: StoredResponse[] = [];
    let seen: string[] = [];
    const first = await bytesOf(async (res) => {
      const recording: Recording = record(res, {
        maxBytes: 1 << 20,
        onOverflow: () => "drop",
        onEnd: (response) => {
          kept.push(response);
          // Later, as when a store has answered.
          setImmediate(() => recording.send([]));
        },
      });
      seen = await runProgram(res, calls);
    });
    expect({ ...parse(first), seen }).toEqual(bare);
    expect(kept).toHaveLength(1);
    const replay = await bytesOf(async (res) => sendResponse(res, kept[0] as StoredResponse, []));
    expect(replay.toString("latin1")).toBe(first.toString("latin1"));
  });
});

test("a response that outgrows what is held is what Node would have sent", async () => {
  await check(async (calls) => {
    const bare = await onNode(calls);
    const ends: string[] = [];
    const streamed = await bytesOf(async (res) => {
      const recording: Recording = record(res, {
        maxBytes: 4,
        onOverflow: () => {
          setImmediate(() =>
            recording.stream([], async () => {
              ends.push("streamed");
            }),
          );
          return "wait";
        },
        onEnd: () => {
          ends.push("held");
          setImmediate(() => recording.send([]));
        },
      });
      await runProgram(res, calls);
    });
    const { seen: _seen, ...expected } = bare;
    expect(parse(streamed)).toEqual(expected);
    expect(ends).toHaveLength(1);
  });
});

test("a declared stream is what Node would have sent", async () => {
  await check(async (calls) => {
    const bare = await onNode(calls);
    const ends: string[] = [];
    const streamed = await bytesOf(async (res) => {
      const recording: Recording = record(res, {
        maxBytes: 1 << 20,
        isStream: true,
        onOverflow: () => {
          setImmediate(() =>
            recording.stream([], async () => {
              ends.push("streamed");
            }),
          );
          return "wait";
        },
        onEnd: () => {
          ends.push("held");
          setImmediate(() => recording.send([]));
        },
      });
      await runProgram(res, calls);
    });
    const { seen: _seen, ...expected } = bare;
    expect(parse(streamed)).toEqual(expected);
    expect(ends).toHaveLength(1);
  });
});
