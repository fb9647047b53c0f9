/** Controllers' methods as NestJS has them: what they return is the answer, and what they throw goes through its filter. */
import { createReadStream } from "node:fs";
import { Readable } from "node:stream";

import { Header, HttpCode, HttpException, Redirect, StreamableFile } from "@nestjs/common";
import { from, type Observable } from "rxjs";

import { fiveMegabytes, maximum, type CaseName } from "../cases.js";
import { chunksOf, everyByte, slowly, someFile, words } from "./node.js";

export interface NestHandler {
  readonly answer: (body: unknown) => unknown;
  readonly decorators?: readonly MethodDecorator[];
}

const created = HttpCode(201);
const ok = HttpCode(200);

/** What is not here takes `@Res()` and is written as on Express. */
export const nestHandlers: Partial<Record<CaseName, NestHandler>> = {
  json: {
    answer: (body) => ({ id: "ch_1", amount: (body as { amount: number }).amount }),
    decorators: [created],
  },
  "send-string": { answer: async () => "<p>paid</p>", decorators: [ok] },
  "send-object": {
    answer: (): Observable<object> => from([{ id: "ch_0" }, { id: "ch_1", paid: true }]),
    decorators: [ok],
  },
  "send-buffer": {
    answer: () => new StreamableFile(everyByte, { disposition: 'attachment; filename="b"' }),
    decorators: [ok],
  },
  "empty-200": { answer: () => undefined, decorators: [ok] },
  "location-etag": {
    answer: () => ({ id: "ch_1" }),
    decorators: [
      created,
      Header("Location", "/charges/ch_1?expand=%C3%A9"),
      Header("ETag", 'W/"abc"'),
    ],
  },
  redirect: { answer: () => undefined, decorators: [Redirect("/charges/ch_1")] },
  "see-other": {
    answer: () => ({ url: "/charges/ch_1", statusCode: 303 }),
    decorators: [Redirect("/elsewhere")],
  },
  "no-content": { answer: () => undefined, decorators: [HttpCode(204)] },
  "pipe-file": {
    answer: () => new StreamableFile(createReadStream(someFile)),
    decorators: [ok],
  },
  "pipe-large": {
    answer: () => new StreamableFile(Readable.from(chunksOf(fiveMegabytes))),
    decorators: [ok],
  },
  "pipe-slow": {
    answer: () => new StreamableFile(Readable.from(slowly(), { objectMode: false })),
    decorators: [ok],
  },
  "gzip-behind": {
    answer: () => words,
    decorators: [ok, Header("Content-Type", "text/plain")],
  },
  throws: {
    answer: () => {
      throw new Error("a bug");
    },
  },
  rejects: {
    answer: async () => {
      await new Promise(setImmediate);
      throw new Error("a bug, later");
    },
  },
  "next-error": {
    answer: () => {
      throw new HttpException({ code: "card_declined" }, 402);
    },
    decorators: [Header("X-Decline-Code", "do_not_honor")],
  },
  "body-1": { answer: () => "x", decorators: [ok] },
  "body-maximum": { answer: () => "x".repeat(maximum), decorators: [ok] },
  "body-too-large": { answer: () => "x".repeat(maximum + 1), decorators: [ok] },
};
