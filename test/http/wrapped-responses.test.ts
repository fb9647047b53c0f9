/** Middleware that lays its own methods over a response's: each is called once, and its replay is what the first client got. */
import type { RequestHandler, Response } from "express";

import type { CacheableStore } from "../../src/core/ports.js";
import { memoryStore } from "../../src/stores/memory.js";
import { keyedApp } from "./keyed-app.js";

/** Calls `before` in front of every writeHead, as the package on-headers and those that use it do. */
function beforeHead(before: (res: Response) => void): RequestHandler {
  return (_req, res, next) => {
    const writeHead = res.writeHead.bind(res) as (...args: readonly unknown[]) => unknown;
    res.writeHead = ((...args: readonly unknown[]) => {
      before(res);
      return writeHead(...args);
    }) as typeof res.writeHead;
    next();
  };
}

/** Counts in a header how often it was called. */
function countHeads(): RequestHandler {
  return (req, res, next) => {
    let calls = 0;
    beforeHead(() => res.setHeader("X-Calls", String((calls += 1))))(req, res, next);
  };
}

test("what writeHead adds to a replay in front does not stay with what is remembered", async () => {
  const store: CacheableStore = { ...memoryStore(), epoch: () => "epoch" };
  const { post } = keyedApp((_req, res) => void res.set("Link", ["<a>", "<b>"]).json({}), {
    options: { store },
    front: (req, res, next) => {
      let isDone = false;
      beforeHead(() => {
        if (!isDone) res.appendHeader("Link", "<front>");
        isDone = true;
      })(req, res, next);
    },
  });
  for (let time = 0; time < 4; time += 1)
    expect((await post("remembered")).headers["link"]).toBe("<a>, <b>, <front>");
});

describe("a writeHead that was laid over ours", () => {
  test("is called once, for the first response as for what its replay is", async () => {
    const { post } = keyedApp((_req, res) => void res.json({}), { behind: countHeads() });
    expect((await post("once")).headers["x-calls"]).toBe("1");
    const replay = await post("once");
    expect([replay.headers["x-calls"], replay.headers["idempotent-replayed"]]).toEqual([
      "1",
      "true",
    ]);
  });

  test.each([
    ["is a stream", { stream: true }],
    ["is too large to be stored", { maxResponseBytes: 2 }],
  ])("is called once where the response %s", async (_what, options) => {
    const { post } = keyedApp((_req, res) => void (res.write("one "), res.end("two")), {
      options,
      behind: countHeads(),
    });
    const { headers } = await post("once").expect(200);
    expect([headers["x-calls"], headers["idempotency-stored"]]).toEqual(["1", "false"]);
  });
});

test("an end in front that does not hand the encoding on gets bytes", async () => {
  const { post } = keyedApp((_req, res) => void res.json({ size: "Größe €" }), {
    front: (_req, res, next) => {
      const end = res.end.bind(res) as (chunk: unknown) => unknown;
      res.end = ((chunk: unknown) => end(chunk)) as typeof res.end;
      next();
    },
  });
  for (const key of [undefined, "bytes", "bytes"])
    expect((await post(key).expect(200)).body).toEqual({ size: "Größe €" });
});

test("an end in front that throws cuts the connection, and the retry gets what was stored", async () => {
  let isBroken = true;
  const { post } = keyedApp((_req, res) => void res.status(201).json({ id: 1 }), {
    front: (_req, res, next) => {
      if (isBroken)
        res.end = () => {
          throw new Error("not a good day");
        };
      next();
    },
  });
  await expect(post("broken")).rejects.toThrow("socket hang up");
  isBroken = false;
  const replay = await post("broken").expect(201, { id: 1 });
  expect(replay.headers["idempotent-replayed"]).toBe("true");
});
