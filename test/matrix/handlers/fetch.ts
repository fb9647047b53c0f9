/** Handlers that take a Request and return a Response. */
import { createReadStream } from "node:fs";
import { Readable } from "node:stream";
import { createGzip } from "node:zlib";

import { fiveMegabytes, maximum, type CaseName } from "../cases.js";
import { AppError, chunksOf, everyByte, failing, slowly, someFile, words } from "./node.js";

export type FetchMatrixHandler = (request: Request) => Response | Promise<Response>;

const encoder = new TextEncoder();

/** Pulled one by one, as the reader asks. */
function streamOf(chunks: Iterable<Uint8Array | string> | AsyncIterable<Uint8Array | string>) {
  const source = Readable.from(chunks)[Symbol.asyncIterator]() as AsyncIterator<
    Uint8Array | string
  >;
  return new ReadableStream<Uint8Array>({
    async pull(controller) {
      const { done, value } = await source.next();
      if (done === true) controller.close();
      else controller.enqueue(typeof value === "string" ? encoder.encode(value) : value);
    },
  });
}

interface TextInit extends ResponseInit {
  readonly headers?: Record<string, string>;
}
const text = (body: string, init: TextInit = {}): Response =>
  new Response(body, { ...init, headers: { "Content-Type": "text/plain", ...init.headers } });
const never = (): Promise<Response> => new Promise<Response>(() => undefined);

export const fetchHandlers: Partial<Record<CaseName, FetchMatrixHandler>> = {
  json: async (request) => {
    const { amount } = (await request.json()) as { amount: number };
    return Response.json({ id: "ch_1", amount }, { status: 201 });
  },
  "send-string": () => text("paid"),
  "send-buffer": () => new Response(Buffer.from("paid")),
  "send-object": () => Response.json({ id: "ch_1", paid: true }),
  "empty-200": () => new Response(),
  "end-body": () => new Response("paid"),
  "every-byte": () => new Response(everyByte),
  "many-writes": () =>
    new Response(streamOf(Array.from({ length: 1_000 }, (_, i) => `line ${i}\n`))),
  "split-characters": () =>
    new Response(streamOf([...Buffer.from("\u20ac\ud83d\ude00")].map((byte) => Buffer.of(byte)))),
  "implicit-head": () =>
    text("declined", {
      status: 402,
      statusText: "Card declined",
      headers: { "X-Decline-Code": "do_not_honor" },
    }),
  "set-headers": () => {
    const headers = new Headers({ "X-Gone": "1", "X-Number": "7" });
    headers.append("X-List", "a");
    headers.append("X-List", "b");
    headers.delete("X-Gone");
    return new Response("ok", { headers });
  },
  "odd-headers": () =>
    new Response("ok", {
      headers: { "x-lOwEr": "1", ZEBRA: "2", apple: 'a; q="\\""', "X-Empty": "" },
    }),
  "header-beyond-ascii": () =>
    new Response(Buffer.from("ok"), {
      headers: { "Content-Disposition": 'attachment; filename="caf\u00e9.pdf"' },
    }),
  "multi-value": () => {
    const headers = new Headers([
      ["Link", '</charges?after=1>; rel="next"'],
      ["Link", '</charges>; rel="first"'],
      ["Vary", "Accept"],
      ["Vary", "Origin"],
    ]);
    return new Response("ok", { headers });
  },
  "location-etag": () =>
    Response.json(
      { id: "ch_1" },
      {
        status: 201,
        headers: {
          Location: "/charges/ch_1?expand=%C3%A9",
          ETag: 'W/"abc"',
          "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT",
        },
      },
    ),
  cookies: () => {
    const headers = new Headers({ "X-Before": "1" });
    headers.append("Set-Cookie", "session=1; HttpOnly");
    headers.append("Set-Cookie", "theme=dark");
    return new Response("ok", { headers });
  },
  "explicit-length": () => new Response("ok", { headers: { "Content-Length": "2" } }),
  "large-headers": () =>
    new Response("ok", {
      headers: Object.fromEntries(
        Array.from({ length: 100 }, (_, index) => [`X-Large-${index}`, "x".repeat(1_000)]),
      ),
    }),
  "large-request-headers": () => new Response("ok"),

  redirect: () => new Response(null, { status: 302, headers: { Location: "/charges/ch_1" } }),
  "see-other": () => Response.redirect("http://test/charges/ch_1", 303),
  "send-status": () => text("Accepted", { status: 202 }),
  "no-content": () => new Response(null, { status: 204 }),
  "not-modified": () => new Response(null, { status: 304, headers: { ETag: '"abc"' } }),

  "pipe-file": () => new Response(streamOf(createReadStream(someFile))),
  "pipe-large": () => new Response(streamOf(chunksOf(fiveMegabytes))),
  "pipe-slow": () => new Response(streamOf(slowly())),
  "pipe-fails": () => new Response(streamOf(failing())),
  "server-sent-events": () =>
    new Response(streamOf(slowly()), { headers: { "Content-Type": "text/event-stream" } }),
  "declared-stream": () => new Response(streamOf(slowly())),
  "stream-with-one-end": () => text("declined", { status: 402, headers: { "X-One": "1" } }),
  "gzip-in-front": () => text(words),
  "gzip-behind": () =>
    new Response(streamOf(Readable.from([words, words]).pipe(createGzip())), {
      headers: { "Content-Type": "text/plain", "Content-Encoding": "gzip" },
    }),

  throws: () => {
    throw new AppError(500, "a bug");
  },
  rejects: async () => {
    await new Promise(setImmediate);
    throw new AppError(500, "a bug, later");
  },
  "next-error": () => {
    throw new AppError(402, "declined");
  },
  "never-answers": never,
  "times-out": never,

  "http-1.0": () => new Response("paid"),
  "http-1.0-writes": () => new Response(streamOf(["one ", "two"])),
  pipelined: () => new Response("paid"),
  "body-0": () => new Response(""),
  "body-1": () => new Response("x"),
  "body-maximum": () => new Response("x".repeat(maximum)),
  "body-too-large": () => new Response("x".repeat(maximum + 1)),
  "pipe-too-large": () => new Response(streamOf(chunksOf(fiveMegabytes))),
};
