/** An Express app with one keyed route, and whatever middleware stands in front of it and behind it. */
import express from "express";
import request from "supertest";

import { createIdempotency } from "../../src/index.js";
import type { Idempotency } from "../../src/index.js";
import { memoryStore } from "../../src/stores/memory.js";

export interface KeyedApp {
  readonly app: express.Express;
  readonly idempotent: Idempotency;
  /** Posts under a key, or without one: to the same handler as it is on bare Express. */
  readonly post: (key: string | undefined, body?: object) => request.Test;
}

interface Given {
  readonly options?: Partial<Parameters<typeof createIdempotency>[0]>;
  readonly front?: express.RequestHandler;
  readonly behind?: express.RequestHandler;
}

const pass: express.RequestHandler = (_req, _res, next) => next();

/** On a memory store unless another one is given. What handlers throw is answered 500 with its message. */
export function keyedApp(handler: express.RequestHandler, given: Given = {}): KeyedApp {
  const { options, front = pass, behind = pass } = given;
  const idempotent = createIdempotency({ store: memoryStore(), scope: "global", ...options });
  const app = express().set("env", "test");
  app.post("/orders", front, express.json(), idempotent(), behind, handler);
  app.use(((error, _req, res, next) => {
    if (res.headersSent) return next(error);
    res.statusMessage = "";
    res.status(500).json({ failed: (error as Error).message });
  }) satisfies express.ErrorRequestHandler);
  const post = (key: string | undefined, body: object = {}): request.Test => {
    const call = request(app).post("/orders").send(body);
    return key === undefined ? call : call.set("Idempotency-Key", key);
  };
  return { app, idempotent, post };
}
