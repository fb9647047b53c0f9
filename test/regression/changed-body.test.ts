/** What a handler does to the body that it was given is no part of what was asked. */
import express from "express";
import request from "supertest";

import { createIdempotency } from "../../src/index.js";
import type { Idempotency } from "../../src/index.js";
import { memoryStore } from "../../src/stores/memory.js";
import { migrate, postgresStore } from "../../src/stores/postgres.js";
import { useDatabase } from "../support/databases.js";

const database = useDatabase({ prepare: (pool) => migrate({ pool }) });
const opened: Idempotency[] = [];
afterEach(() => Promise.all(opened.splice(0).map((idempotent) => idempotent.close())));

interface Order {
  amount: number;
  items: string[];
  done?: boolean;
}

function changeAndAnswer(req: express.Request, res: express.Response): void {
  const order = req.body as Order;
  order.amount += 1;
  order.items.push("gift");
  order.done = true;
  res.status(201).json({ ok: true });
}

const stores = {
  memory: () => memoryStore(),
  postgres: () => postgresStore({ pool: database.pool }),
};

function app(store: keyof typeof stores): express.Express {
  const idempotent = createIdempotency({
    store: stores[store](),
    scope: "global",
    nearCache: false,
  });
  opened.push(idempotent);
  const api = express().use(express.json());
  api.post("/plain", idempotent(), changeAndAnswer);
  if (store === "postgres") {
    api.post("/transaction", idempotent.transaction(changeAndAnswer));
    const serializable = { isolation: "serializable" } as const;
    api.post("/serializable", idempotent.transaction(serializable, changeAndAnswer));
  }
  return api;
}

test.each<[keyof typeof stores, string]>([
  ["memory", "/plain"],
  ["postgres", "/plain"],
  ["postgres", "/transaction"],
  ["postgres", "/serializable"],
])(
  "on %s%s the same body is replayed, and another is told apart by its fields",
  async (store, path) => {
    const api = app(store);
    const post = (body: Order): request.Test =>
      request(api)
        .post(path)
        .set("Idempotency-Key", `changed-${store}-${path.slice(1)}`)
        .send(body);
    const asked = (): Order => ({ amount: 1, items: ["pen"] });

    await post(asked()).expect(201);
    await post(asked()).expect(201).expect("Idempotent-Replayed", "true");
    const other = await post({ ...asked(), amount: 2 }).expect(422);
    expect(other.body).toMatchObject({ code: "key_reused", differs: ["body.amount"] });
  },
);
