/** Steps routes on real Postgres: recovery points, the completer, honest unknowns. */
import express from "express";
import request from "supertest";

import { createIdempotency } from "../../src/index.js";
import type { Idempotency, IdempotencyEvent, StepsHandler } from "../../src/index.js";
import { migrate, postgresStore } from "../../src/stores/postgres.js";
import { useDatabase } from "../support/databases.js";
import { waitFor } from "../support/wait-for.js";

const database = useDatabase({
  prepare: async (pool) => {
    await migrate({ pool });
    await pool.query("CREATE TABLE rows (note text)");
  },
});

const instances: Idempotency[] = [];
afterEach(async () => {
  await Promise.all(instances.splice(0).map((each) => each.close()));
});

interface Instance {
  readonly idempotent: Idempotency;
  readonly events: IdempotencyEvent[];
}

function instance(workers = false): Instance {
  const events: IdempotencyEvent[] = [];
  const idempotent = createIdempotency({
    store: postgresStore({ pool: database.pool }),
    // The database's clock is moved here, which a process that remembers an answer does not see.
    nearCache: false,
    scope: () => "acme",
    workers,
    leaseMs: 300,
    heartbeatMs: 100,
    hooks: { onEvent: (event) => events.push(event) },
  });
  instances.push(idempotent);
  return { idempotent, events };
}

function api({ idempotent }: Instance, name: string, handler: StepsHandler, options = {}) {
  const app = express();
  app.use(express.json());
  app.post("/checkouts/:shop", idempotent.steps(name, options, handler));
  return app;
}

let counter = 0;
const newKey = (): string => `steps-key-${(counter += 1)}-here`;
const post = (app: express.Express, key: string | undefined, body: object = { sku: "a" }) => {
  const call = request(app).post("/checkouts/berlin?x=1").send(body);
  return key === undefined ? call : call.set("Idempotency-Key", key);
};
const rows = async (note: string): Promise<number> =>
  (await database.pool.query("SELECT FROM rows WHERE note = $1", [note])).rowCount ?? 0;

interface Client {
  query(text: string, values?: unknown[]): Promise<unknown>;
}
const insert = (tx: unknown, note: string) =>
  (tx as Client).query("INSERT INTO rows (note) VALUES ($1)", [note]);

describe("a steps route", () => {
  test("runs once, hands the request over as data and replays the answer", async () => {
    const key = newKey();
    let runs = 0;
    const app = api(
      instance(),
      "plain",
      async (req, steps) => {
        runs += 1;
        await steps.transaction("write", (tx) => insert(tx, key));
        return {
          status: 201,
          headers: { Location: "/c/1" },
          body: { ...req, headers: req.headers, runs },
        };
      },
      { keepHeaders: ["X-Kept"] },
    );
    const first = await post(app, key).set("X-Kept", "yes").set("X-Lost", "no").expect(201);
    expect(first.body).toEqual({
      scope: "acme",
      key,
      method: "POST",
      path: "/checkouts/berlin",
      params: { shop: "berlin" },
      query: { x: "1" },
      headers: { "x-kept": "yes" },
      body: { sku: "a" },
      runs: 1,
    });
    expect(first.headers["location"]).toBe("/c/1");
    const second = await post(app, key).expect(201);
    expect(second.text).toBe(first.text);
    expect(second.headers["idempotent-replayed"]).toBe("true");
    expect(await rows(key)).toBe(1);
    await post(app, key, { sku: "b" }).expect(422);
  });

  test("goes on at the last recovery point, with results as they were", async () => {
    const key = newKey();
    const calls: string[] = [];
    let attempts = 0;
    const app = api(instance(), "resume", async (_req, steps) => {
      attempts += 1;
      await steps.transaction("reserve", (tx) => insert(tx, key));
      const charge = await steps.call("charge", async ({ key: downstream }) => {
        calls.push(downstream);
        return { at: new Date(0), amount: 12n, bytes: Buffer.from([1, 2]), none: undefined };
      });
      if (attempts < 3) throw new Error("not yet");
      return {
        status: 200,
        body: [charge.at instanceof Date, typeof charge.amount, Buffer.isBuffer(charge.bytes)],
      };
    });
    const failed = await post(app, key);
    expect(failed.status).toBe(503);
    expect(failed.body).toMatchObject({ code: "attempt_failed", retryable: true });
    await post(app, key).expect(503);
    await post(app, key).expect(200, [true, "bigint", true]);
    await post(app, key).expect(200, [true, "bigint", true]);
    expect(await rows(key)).toBe(1);
    expect(calls).toHaveLength(1);
    expect(attempts).toBe(3);
  });

  test("stores a definitive failure, and nothing succeeds after it", async () => {
    const key = newKey();
    let attempts = 0;
    const app = api(instance(), "declined", async (_req, steps) => {
      attempts += 1;
      await steps.call("charge", async () => {
        throw steps.fail({ status: 402, body: { code: "card_declined" } });
      });
      return { status: 201 };
    });
    await post(app, key).expect(402, { code: "card_declined" });
    await post(app, key).expect(402, { code: "card_declined" });
    expect(attempts).toBe(1);
  });

  test("refuses to go on with another definition, and runs nothing twice", async () => {
    const key = newKey();
    const done: string[] = [];
    const before = api(instance(), "shop", async (_req, steps) => {
      await steps.call("one", async () => void done.push("one"));
      await steps.call("two", async () => void done.push("two"));
      throw new Error("died");
    });
    await post(before, key).expect(503);
    const after = api(instance(), "shop", async (_req, steps) => {
      await steps.call("two", async () => void done.push("two again"));
      await steps.call("one", async () => void done.push("one again"));
      return { status: 200 };
    });
    const changed = await post(after, key);
    expect(changed.status).toBe(500);
    expect(changed.body.code).toBe("definition_changed");
    expect(done).toEqual(["one", "two"]);
    // Set aside: nobody tries again until an operator says so.
    await post(after, key).expect(409);
  });

  test("notices a step that is not there any more", async () => {
    const key = newKey();
    const before = api(instance(), "missing", async (_req, steps) => {
      await steps.call("one", async () => 1);
      await steps.call("two", async () => 2);
      throw new Error("died");
    });
    await post(before, key).expect(503);
    const after = api(instance(), "missing", async (_req, steps) => {
      await steps.call("one", async () => 1);
      return { status: 200 };
    });
    expect((await post(after, key)).body.code).toBe("definition_changed");
  });

  test("admits that it does not know what became of a call that must not be repeated", async () => {
    const key = newKey();
    let calls = 0;
    const app = api(instance(), "once", async (_req, steps) => {
      await steps.call(
        "charge",
        async () => {
          calls += 1;
          throw new Error("the reply was lost");
        },
        { repeatable: false },
      );
      return { status: 201 };
    });
    const first = await post(app, key);
    expect(first.status).toBe(409);
    expect(first.body.code).toBe("outcome_unknown");
    await post(app, key).expect(409);
    expect(calls).toBe(1);
  });

  test("asks the step's reconcile before it admits that", async () => {
    const key = newKey();
    let calls = 0;
    const app = api(instance(), "reconciled", async (_req, steps) => {
      const charge = await steps.call(
        "charge",
        async () => {
          calls += 1;
          throw new Error("the reply was lost");
        },
        {
          repeatable: false,
          reconcile: async () => ({ kind: "happened", result: { id: "ch_9" } }),
        },
      );
      return { status: 201, body: charge };
    });
    await post(app, key).expect(201, { id: "ch_9" });
    expect(calls).toBe(1);
  });

  test("sets a request aside that keeps failing", async () => {
    const key = newKey();
    const { idempotent, events } = instance();
    const app = api(
      { idempotent, events },
      "hopeless",
      async () => {
        throw new TypeError("always");
      },
      { maxAttempts: 2 },
    );
    await post(app, key).expect(503);
    await post(app, key).expect(409);
    await post(app, key).expect(409);
    const found = await database.pool.query(
      "SELECT state, next_attempt_at, failures, last_error FROM idempotency_keys WHERE key = $1",
      [key],
    );
    expect(found.rows).toEqual([
      { state: "parked", next_attempt_at: null, failures: 2, last_error: "TypeError: always" },
    ]);
  });

  test("is finished by the completer of another process without any client", async () => {
    const key = newKey();
    let attempts = 0;
    const handler: StepsHandler = async (_req, steps) => {
      attempts += 1;
      await steps.transaction("write", (tx) => insert(tx, key));
      if (attempts === 1) throw new Error("first one fails");
      return { status: 201, body: { attempts } };
    };
    const app = api(instance(), "finished", handler);
    await post(app, key).expect(503);
    api(instance(true), "finished", handler);
    await waitFor(
      async () =>
        (
          await database.pool.query(
            "SELECT FROM idempotency_keys WHERE key = $1 AND state = 'completed'",
            [key],
          )
        ).rowCount === 1,
      { timeoutMs: 60_000, what: "the completer" },
    );
    await post(app, key).expect(201, { attempts: 2 });
    expect(await rows(key)).toBe(1);
  });

  test("commits nothing under a claim that was taken over", async () => {
    const key = newKey();
    let release: () => void = () => undefined;
    let entered: () => void = () => undefined;
    const gate = new Promise<void>((resolve) => (release = resolve));
    const inside = new Promise<void>((resolve) => (entered = resolve));
    let attempts = 0;
    const app = api(instance(), "taken", async (_req, steps) => {
      attempts += 1;
      const mine = attempts;
      await steps.call("wait", async () => {
        if (mine !== 1) return mine;
        entered();
        await gate;
        return mine;
      });
      await steps.transaction("write", (tx) => insert(tx, key));
      return { status: 201, body: { mine } };
    });
    const first = post(app, key).then((response) => response);
    await inside;
    // As if this process had been frozen past its lease, and another one had taken over.
    await database.pool.query(
      `UPDATE idempotency_keys SET token = nextval('idempotency_token_seq'), claim_id = gen_random_uuid(),
         lease_until = clock_timestamp() WHERE key = $1`,
      [key],
    );
    const second = await post(
      api(instance(), "taken", async (_req, steps) => {
        attempts += 1;
        const mine = attempts;
        await steps.call("wait", async () => mine);
        await steps.transaction("write", (tx) => insert(tx, key));
        return { status: 201, body: { mine } };
      }),
      key,
    );
    expect(second.body).toEqual({ mine: 2 });
    release();
    expect((await first).status).toBe(409);
    expect(await rows(key)).toBe(1);
    await post(app, key).expect(201, { mine: 2 });
  });

  test("sends a message once, however often the handler runs", async () => {
    const key = newKey();
    let attempts = 0;
    const app = api(instance(), "sender", async (_req, steps) => {
      attempts += 1;
      await steps.send("receipt", { for: key });
      await steps.send("receipt", { second: true });
      if (attempts === 1) throw new Error("after the sends");
      return { status: 200 };
    });
    await post(app, key).expect(503);
    await post(app, key).expect(200);
    const sent = await database.pool.query(
      "SELECT topic, payload FROM idempotency_outbox WHERE key = $1 ORDER BY sequence",
      [key],
    );
    expect(sent.rows).toEqual([
      { topic: "receipt", payload: { for: key } },
      { topic: "receipt", payload: { second: true } },
    ]);
  });

  test("swallows no message of a key that is used again while the old event is still kept", async () => {
    const key = newKey();
    const app = api(instance(), "twice", async (_req, steps) => {
      await steps.send("receipt", { for: key });
      return { status: 200 };
    });
    await post(app, key).expect(200);
    // As after the dedupe window.
    await database.pool.query("DELETE FROM idempotency_keys WHERE key = $1", [key]);
    const again = await post(app, key);
    expect([again.status, again.body.code]).toEqual([503, "attempt_failed"]);
    const found = await database.pool.query(
      "SELECT state, last_error FROM idempotency_keys WHERE key = $1",
      [key],
    );
    expect(found.rows).toEqual([
      {
        state: "parked",
        last_error:
          "IdempotencyError: The outbox still holds this event from an earlier use of the same key.",
      },
    ]);
  });

  test("makes a key for a request without one", async () => {
    const app = api(instance(), "unkeyed", async (req) => ({
      status: 200,
      body: { key: req.key },
    }));
    const response = await post(app, undefined).expect(200);
    expect(response.body.key).toMatch(/^auto_/);
    expect(response.headers["idempotency-key"]).toBeUndefined();
  });
});
