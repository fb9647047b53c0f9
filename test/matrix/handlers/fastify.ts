/** Handlers as Fastify has them. What is not here is written on `reply.raw`, after `reply.hijack()`. */
import { createReadStream } from "node:fs";
import { Readable } from "node:stream";

import type { FastifyReply, FastifyRequest } from "fastify";

import { fiveMegabytes, maximum, type CaseName } from "../cases.js";
import { AppError, chunksOf, everyByte, failing, slowly, someFile, words } from "./node.js";

export type FastifyMatrixHandler = (request: FastifyRequest, reply: FastifyReply) => unknown;

export const fastifyHandlers: Partial<Record<CaseName, FastifyMatrixHandler>> = {
  json: async (request, reply) => {
    reply.code(201);
    return { id: "ch_1", amount: (request.body as { amount: number }).amount };
  },
  "send-string": async () => "paid",
  "send-buffer": (_request, reply) => reply.send(everyByte),
  "send-object": (_request, reply) => void reply.send({ id: "ch_1", paid: true }),
  "empty-200": (_request, reply) => reply.send(),
  "end-body": () => new Response("paid", { headers: { "X-One": "1" } }),
  "implicit-head": (_request, reply) => {
    reply.raw.statusMessage = "Card declined";
    return reply.code(402).header("X-Decline-Code", "do_not_honor").send("declined");
  },
  "set-headers": (_request, reply) =>
    reply
      .headers({ "X-Gone": "1", "X-Number": 7 })
      .header("X-List", ["a", "b"])
      .removeHeader("X-Gone")
      .send("ok"),
  "odd-headers": (_request, reply) =>
    reply.headers({ "x-lOwEr": "1", ZEBRA: "2", apple: 'a; q="\\""', "X-Empty": "" }).send("ok"),
  "multi-value": (_request, reply) =>
    reply
      .header("Link", ['</charges?after=1>; rel="next"', '</charges>; rel="first"'])
      .header("Vary", "Accept, Origin")
      .send("ok"),
  "location-etag": (_request, reply) =>
    reply
      .code(201)
      .header("Location", "/charges/ch_1?expand=%C3%A9")
      .header("ETag", 'W/"abc"')
      .header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
      .send({ id: "ch_1" }),
  cookies: (_request, reply) =>
    reply
      .header("X-Before", "1")
      .header("Set-Cookie", "session=1; HttpOnly")
      .header("Set-Cookie", "theme=dark")
      .header("X-After", "2")
      .send("ok"),
  "explicit-length": (_request, reply) => reply.header("Content-Length", "2").send("ok"),
  trailers: (_request, reply) => {
    reply.trailer("X-Sum", async () => "7");
    return reply.send("one two");
  },
  "early-hints": async (_request, reply) => {
    await new Promise<void>((resolve) => {
      reply.raw.writeEarlyHints({ link: "</a.css>; rel=preload" }, resolve);
    });
    return "ok";
  },
  "large-request-headers": async () => "ok",
  redirect: (_request, reply) => reply.redirect("/charges/ch_1"),
  "see-other": (_request, reply) => reply.redirect("/charges/ch_1", 303),
  "send-status": (_request, reply) => reply.code(202).send("Accepted"),
  "no-content": (_request, reply) => reply.code(204).send(),
  "not-modified": (_request, reply) => reply.code(304).header("ETag", '"abc"').send(),
  "pipe-file": (_request, reply) => reply.send(createReadStream(someFile)),
  "pipe-large": (_request, reply) => reply.send(Readable.from(chunksOf(fiveMegabytes))),
  "pipe-slow": (_request, reply) => reply.send(Readable.from(slowly(), { objectMode: false })),
  "pipe-fails": (_request, reply) => reply.send(Readable.from(failing(), { objectMode: false })),
  "server-sent-events": (_request, reply) =>
    reply
      .header("Content-Type", "text/event-stream")
      .send(Readable.from(slowly(), { objectMode: false })),
  "declared-stream": (_request, reply) =>
    reply.send(Readable.from(slowly(), { objectMode: false })),
  "stream-with-one-end": (_request, reply) => reply.code(402).header("X-One", "1").send("declined"),
  "gzip-behind": (_request, reply) => reply.type("text/plain").send(words),
  throws: () => {
    throw new AppError(500, "a bug");
  },
  rejects: async () => {
    await new Promise(setImmediate);
    throw new AppError(500, "a bug, later");
  },
  "next-error": async (_request, reply) => {
    reply.header("X-Decline-Code", "do_not_honor");
    throw new AppError(402, "declined");
  },
  "http-1.0": async () => "paid",
  pipelined: async () => "paid",
  "body-0": (_request, reply) => reply.send(""),
  "body-1": (_request, reply) => reply.send("x"),
  "body-maximum": (_request, reply) => reply.send("x".repeat(maximum)),
  "body-too-large": (_request, reply) => reply.send("x".repeat(maximum + 1)),
  "pipe-too-large": (_request, reply) => reply.send(Readable.from(chunksOf(fiveMegabytes))),
};
