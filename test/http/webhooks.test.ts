/** The recipes of docs/webhooks.md, as they stand there, against deliveries as Stripe and GitHub make them. */
import { createHmac, timingSafeEqual } from "node:crypto";
import { readFileSync } from "node:fs";

import { transformSync } from "@swc/core";
import express from "express";
import Stripe from "stripe";

import { createIdempotency } from "../../src/index.js";
import type { Idempotency } from "../../src/index.js";
import { migrate, postgresStore } from "../../src/stores/postgres.js";
import { useDatabase } from "../support/databases.js";
import { blocksOf } from "../docs/documents.js";
import { serve, sent } from "./bodies.js";
import type { Got, Running, Sent } from "./bodies.js";

const database = useDatabase({
  prepare: async (pool) => {
    await migrate({ pool });
    await pool.query("CREATE TABLE orders (id serial PRIMARY KEY, note text)");
    await pool.query(
      "CREATE TABLE charges (id serial PRIMARY KEY, amount integer CHECK (amount < 1000))",
    );
  },
});

type Recipe = { readonly webhooks: express.Router; readonly once: Idempotency };

/** Runs a block of the page with what it imports. */
function recipe(containing: string): Recipe {
  const block = blocksOf("docs/webhooks.md").find(({ text }) => text.includes(containing));
  const body = (block?.text ?? "").replaceAll(/^import .*$/gm, "");
  const { code } = transformSync(`function main() {${body}\nreturn { webhooks, once }; }`, {
    swcrc: false,
    jsc: { target: "es2022", parser: { syntax: "typescript" } },
  });
  const known = {
    Stripe,
    createHmac,
    timingSafeEqual,
    express,
    createIdempotency,
    postgresStore,
    pool: database.pool,
  };
  // oxlint-disable-next-line typescript/no-implied-eval
  const make = new Function(...Object.keys(known), `${code}; return main();`) as (
    ...values: unknown[]
  ) => Recipe;
  return make(...Object.values(known));
}

const count = async (table: "charges" | "orders"): Promise<number> => {
  const { rows } = await database.pool.query<{ n: number }>(
    `SELECT count(*)::int AS n FROM ${table}`,
  );
  return rows[0]?.n ?? -1;
};

const replays = (got: readonly Got[]): number => got.filter(({ replayed }) => replayed).length;

describe.each([
  ["Stripe", "stripe.webhooks"],
  ["GitHub", "X-GitHub-Delivery"],
])("the page", (name, containing) => {
  test(`has a recipe for ${name}`, () => {
    expect(readFileSync("docs/webhooks.md", "utf8")).toContain(`## ${name}`);
    expect(() => recipe(containing).once).not.toThrow();
  });
});

describe("an event of Stripe", () => {
  let app: Running;
  let made: Recipe;
  const stripe = new Stripe("sk_test_123");

  beforeAll(async () => {
    made = recipe("stripe.webhooks");
    app = await serve(express, [made.webhooks, express.json()]);
  });
  afterAll(async () => {
    await app.close();
    await made.once.close();
  });

  /** One delivery, signed anew as each is, with what Stripe changes between them. */
  function delivery(id: string, amount: number, attempt: number, secret = "whsec_123"): Sent {
    const object = { id: "ch_1", object: "charge", amount };
    const payload = JSON.stringify({
      id,
      object: "event",
      type: "charge.succeeded",
      pending_webhooks: attempt,
      data: { object },
    });
    const timestamp = Math.floor(Date.now() / 1000) + attempt;
    const signature = stripe.webhooks.generateTestHeaderString({ payload, secret, timestamp });
    return sent("application/json", payload, { "Stripe-Signature": signature });
  }

  test("is handled once, however often and at once it is delivered", async () => {
    const before = await count("charges");
    const atOnce = await Promise.all(
      [1, 2, 3].map((attempt) => app.post(undefined, delivery("evt_1", 500, attempt), "/stripe")),
    );
    const later = [
      await app.post(undefined, delivery("evt_1", 500, 4), "/stripe"),
      await app.post(undefined, delivery("evt_1", 500, 5), "/stripe"),
    ];
    for (const { status } of atOnce) expect([200, 409]).toContain(status);
    expect(later.map(({ status }) => status)).toEqual([200, 200]);
    expect(replays(later)).toBe(2);
    expect(
      [...atOnce, ...later].filter(({ status, replayed }) => status === 200 && !replayed),
    ).toHaveLength(1);
    expect(await count("charges")).toBe(before + 1);
    expect(await made.once.find({ scope: "webhooks:stripe", key: "evt_1" })).toBeDefined();
  });

  test("whose handling failed is handled by the next delivery", async () => {
    const before = await count("charges");
    const bad = await app.post(undefined, delivery("evt_2", 5_000, 1), "/stripe");
    expect(bad.status).toBe(500);
    expect(await count("charges")).toBe(before);
    const good = await app.post(undefined, delivery("evt_2", 700, 2), "/stripe");
    expect(good).toMatchObject({ status: 200, replayed: false });
    const again = await app.post(undefined, delivery("evt_2", 700, 3), "/stripe");
    expect(again).toMatchObject({ status: 200, replayed: true });
    expect(await count("charges")).toBe(before + 1);
  });

  test("that is forged takes no key", async () => {
    const before = await count("charges");
    const forged = delivery("evt_3", 1, 1, "whsec_of_somebody_else");
    expect(await app.post(undefined, forged, "/stripe")).toMatchObject({ status: 400 });
    expect(await made.once.find({ scope: "webhooks:stripe", key: "evt_3" })).toBeUndefined();
    expect(await app.post(undefined, delivery("evt_3", 2, 1), "/stripe")).toMatchObject({
      status: 200,
      replayed: false,
    });
    expect(await count("charges")).toBe(before + 1);
  });

  test("without an id is turned away", async () => {
    const payload = '{"object":"event"}';
    const signature = stripe.webhooks.generateTestHeaderString({ payload, secret: "whsec_123" });
    const got = await app.post(
      undefined,
      sent("application/json", payload, { "Stripe-Signature": signature }),
      "/stripe",
    );
    expect(got).toMatchObject({ status: 400, body: { code: "key_missing" } });
  });
});

describe("a delivery of GitHub", () => {
  let app: Running;
  let made: Recipe;

  beforeAll(async () => {
    made = recipe("X-GitHub-Delivery");
    app = await serve(express, [made.webhooks]);
  });
  afterAll(async () => {
    await app.close();
    await made.once.close();
  });

  function delivery(id: string, event: object): Sent {
    const payload = JSON.stringify(event);
    const secret = "a secret of the repository's webhook";
    const signature = `sha256=${createHmac("sha256", secret).update(payload).digest("hex")}`;
    return sent("application/json", payload, {
      "X-GitHub-Delivery": id,
      "X-Hub-Signature-256": signature,
    });
  }

  test("is handled once, and another body under its name is refused", async () => {
    const before = await count("orders");
    const id = "72d3162e-cc78-11e3-81ab-4c9367dc0958";
    const first = await app.post(undefined, delivery(id, { action: "opened" }), "/github");
    expect(first).toMatchObject({ status: 202, replayed: false });
    const again = await app.post(undefined, delivery(id, { action: "opened" }), "/github");
    expect(again).toMatchObject({ status: 202, replayed: true });
    const other = await app.post(undefined, delivery(id, { action: "closed" }), "/github");
    expect(other).toMatchObject({ status: 422, body: { code: "key_reused" } });
    expect(await count("orders")).toBe(before + 1);
  });

  test("with another signature takes no key", async () => {
    const { headers } = delivery("d-2", { action: "opened" });
    const forged = sent("application/json", '{"action":"closed"}', headers);
    expect(await app.post(undefined, forged, "/github")).toMatchObject({ status: 401 });
    expect(await made.once.find({ scope: "webhooks:github", key: "d-2" })).toBeUndefined();
  });
});
