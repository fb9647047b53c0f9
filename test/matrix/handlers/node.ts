/** Handlers that know Node's response and nothing of a framework. */
import type { IncomingMessage, ServerResponse } from "node:http";
import { Readable } from "node:stream";
import { createReadStream } from "node:fs";
import { pipeline } from "node:stream/promises";

import { fiveMegabytes, maximum, type CaseName } from "../cases.js";

export type NodeHandler = (
  req: IncomingMessage,
  res: ServerResponse,
  next: (error?: unknown) => void,
) => unknown;

/** A file of this repository that no test writes. */
export const someFile = "LICENSE";
export const everyByte = Buffer.from(Array.from({ length: 256 }, (_, index) => index));
export const words = "the same words again and again, ".repeat(200);

/** An error as the app's own error handler knows it. */
export class AppError extends Error {
  constructor(
    readonly status: number,
    message: string,
  ) {
    super(message);
  }
}

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/** One chunk of 64 KiB after another, each with its number. */
export function* chunksOf(bytes: number): Generator<Buffer> {
  for (let left = bytes, index = 0; left > 0; left -= 65_536, index += 1)
    yield Buffer.alloc(Math.min(left, 65_536), `chunk ${index} `);
}

export async function* slowly(): AsyncGenerator<string> {
  for (let index = 0; index < 20; index += 1) {
    for (let turns = 0; turns < 5; turns += 1) await turn();
    yield `part ${index}\n`;
  }
}

export async function* failing(): AsyncGenerator<string> {
  yield "half of it";
  await turn();
  throw new AppError(500, "the source is gone");
}

export const nodeHandlers: Partial<Record<CaseName, NodeHandler>> = {
  "empty-200": (_req, res) => res.end(),
  "end-body": (_req, res) => res.end("paid"),
  "end-encoding": (_req, res) => {
    res.write("6f6e6520", "hex");
    res.write("dHdvIA==", "base64");
    res.end("\u00e9", "latin1");
  },
  "every-byte": (_req, res) => res.end(everyByte),
  "many-writes": (_req, res) => {
    for (let index = 0; index < 1_000; index += 1) res.write(`line ${index}\n`);
    res.end();
  },
  "split-characters": (_req, res) => {
    const euro = Buffer.from("\u20ac");
    res.setHeader("Content-Type", "text/plain; charset=utf-8");
    for (const byte of euro) res.write(Buffer.of(byte));
    res.end("\ud83d\ude00");
  },
  backpressure: async (_req, res) => {
    res.cork();
    res.write("corked ");
    res.write("bytes ");
    res.uncork();
    for (const chunk of chunksOf(500_000)) {
      const [written, flows] = await new Promise<[Error | undefined | null, boolean]>((resolve) => {
        const isFlowing = res.write(chunk, (error) => resolve([error, isFlowing]));
      });
      if (written) throw written;
      if (!flows && res.writableNeedDrain)
        await new Promise((resolve) => res.once("drain", resolve));
    }
    res.end("the end");
  },
  "reused-buffer": (_req, res) => {
    const buffer = Buffer.from("one ");
    res.write(buffer, () => {
      buffer.write("two ");
      res.end(buffer);
    });
  },

  "implicit-head": (_req, res) => {
    res.statusCode = 402;
    res.statusMessage = "Card declined";
    res.setHeader("X-Decline-Code", "do_not_honor");
    res.end("declined");
  },
  "write-head-object": (_req, res) =>
    res.writeHead(201, { "X-One": "1", Link: ["</a>", "</b>"] }).end("ok"),
  "write-head-array": (_req, res) =>
    res.writeHead(201, ["Link", "</a>", "X-One", "1", "Link", "</b>"]).end("ok"),
  "write-head-reason": (_req, res) => res.writeHead(201, "Charged", { "X-One": "1" }).end("ok"),
  "flush-headers": async (_req, res) => {
    res.setHeader("X-One", "1");
    res.flushHeaders();
    await turn();
    res.end("late");
  },
  "set-headers": (_req, res) => {
    res.setHeader("X-Gone", "1");
    res.setHeaders(new Map([["X-Map", "m"]]));
    res.setHeader("X-Number", 7);
    res.appendHeader("X-List", "a");
    res.appendHeader("X-List", "b");
    res.removeHeader("X-Gone");
    res.end("ok");
  },
  "odd-headers": (_req, res) => {
    res.setHeader("x-lOwEr", "1");
    res.setHeader("ZEBRA", "2");
    res.setHeader("apple", 'a; q="\\""');
    res.setHeader("X-Empty", "");
    res.end("ok");
  },
  "header-beyond-ascii": (_req, res) => {
    res.setHeader("Content-Disposition", 'attachment; filename="caf\u00e9.pdf"');
    res.end(Buffer.from("ok"));
  },
  "multi-value": (_req, res) => {
    res.setHeader("Link", ['</charges?after=1>; rel="next"', '</charges>; rel="first"']);
    res.setHeader("Vary", ["Accept", "Origin"]);
    res.end("ok");
  },
  "location-etag": (_req, res) => {
    res.statusCode = 201;
    res.setHeader("Location", "/charges/ch_1?expand=%C3%A9");
    res.setHeader("ETag", 'W/"abc"');
    res.setHeader("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT");
    res.end("ok");
  },
  cookies: (_req, res) => {
    res.setHeader("X-Before", "1");
    res.setHeader("Set-Cookie", ["session=1; HttpOnly", "theme=dark"]);
    res.setHeader("X-After", "2");
    res.end("ok");
  },
  "explicit-length": (_req, res) => res.writeHead(200, { "content-length": 2 }).end("ok"),
  "explicit-chunks": (_req, res) => {
    res.writeHead(200, { "Transfer-Encoding": "chunked", "X-One": "1" });
    res.write("one ");
    res.end("two");
  },
  trailers: (_req, res) => {
    res.writeHead(200, { Trailer: "X-Sum" });
    res.write("one ");
    res.addTrailers({ "X-Sum": "7" });
    res.end("two");
  },
  "early-hints": async (_req, res) => {
    await new Promise<void>((resolve) =>
      res.writeEarlyHints({ link: "</a.css>; rel=preload" }, resolve),
    );
    res.end("ok");
  },
  processing: (_req, res) => {
    res.writeProcessing();
    res.end("ok");
  },
  "large-headers": (_req, res) => {
    for (let index = 0; index < 100; index += 1)
      res.setHeader(`X-Large-${index}`, "x".repeat(1_000));
    res.end("ok");
  },
  "large-request-headers": (_req, res) => res.end("ok"),

  redirect: (_req, res) => res.writeHead(302, { Location: "/charges/ch_1" }).end(),
  "see-other": (_req, res) => res.writeHead(303, { Location: "/charges/ch_1" }).end("See Other"),
  "send-status": (_req, res) =>
    res.writeHead(202, { "Content-Type": "text/plain" }).end("Accepted"),
  "no-content": (_req, res) => res.writeHead(204).end(),
  "not-modified": (_req, res) => res.writeHead(304, { ETag: '"abc"' }).end(),
  "content-under-204": (_req, res) => {
    res.statusCode = 204;
    res.end("must not be sent");
  },

  "pipe-file": (_req, res) => void createReadStream(someFile).pipe(res),
  "pipe-large": (_req, res) => void Readable.from(chunksOf(fiveMegabytes)).pipe(res),
  "pipe-slow": async (_req, res) => {
    await pipeline(slowly(), res);
  },
  "pipe-fails": (_req, res) => {
    // As an app does that has seen this before: without a listener the error would end the process.
    pipeline(failing(), res).catch(() => undefined);
  },
  "server-sent-events": async (_req, res) => {
    res.writeHead(200, { "Content-Type": "text/event-stream", "Cache-Control": "no-store" });
    for await (const part of slowly()) res.write(`data: ${part}\n`);
    res.end();
  },
  "declared-stream": async (_req, res) => {
    await pipeline(slowly(), res);
  },
  "stream-with-one-end": (_req, res) => res.writeHead(402, { "X-One": "1" }).end("declined"),
  "gzip-in-front": (_req, res) => {
    res.setHeader("Content-Type", "text/plain");
    res.end(words);
  },
  "gzip-behind": (_req, res) => {
    res.setHeader("Content-Type", "text/plain");
    res.write(words);
    res.end(words);
  },

  throws: () => {
    throw new AppError(500, "a bug");
  },
  rejects: async () => {
    await turn();
    throw new AppError(500, "a bug, later");
  },
  "next-error": (_req, res, next) => {
    res.setHeader("X-Decline-Code", "do_not_honor");
    next(new AppError(402, "declined"));
  },
  "throws-after-write": (_req, res) => {
    res.write("half of it");
    throw new AppError(500, "a bug in the middle");
  },
  "throws-after-end": (_req, res) => {
    res.writeHead(201).end("paid");
    throw new AppError(500, "a bug after the end");
  },
  "end-twice": (_req, res) => {
    res.on("error", () => undefined);
    res.end("once");
    res.end("twice");
  },
  "write-after-end": (_req, res) => {
    res.on("error", () => undefined);
    res.end("once");
    res.write("and more");
  },
  destroy: (_req, res) => {
    res.write("half of it");
    res.destroy();
  },
  "never-answers": () => undefined,
  "times-out": () => undefined,

  "http-1.0": (_req, res) => res.end("paid"),
  "http-1.0-writes": (_req, res) => {
    res.write("one ");
    res.end("two");
  },
  pipelined: async (_req, res) => {
    await turn();
    res.end("paid");
  },

  "body-0": (_req, res) => res.end(""),
  "body-1": (_req, res) => res.end("x"),
  "body-maximum": (_req, res) => res.end("x".repeat(maximum)),
  "body-too-large": (_req, res) => res.end("x".repeat(maximum + 1)),
  "pipe-too-large": (_req, res) => void Readable.from(chunksOf(fiveMegabytes)).pipe(res),
};
