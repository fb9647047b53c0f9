/**
 * What every source of transactions must do for a transaction route, the pool of the store included. One suite for all, on
 * real Postgres; a file per library says how it is opened and how a row is written with it.
 */
import type { Server } from "node:http";

import express from "express";
import pg from "pg";
import request from "supertest";

import { createIdempotency } from "../../src/index.js";
import type {
  HttpRequest,
  Idempotency,
  IdempotencyEvent,
  TransactionAdapter,
  TransactionRouteOptions,
} from "../../src/index.js";
import { migrate, postgresStore } from "../../src/stores/postgres.js";
import { createDatabase } from "../support/databases.js";
import type { Database } from "../support/databases.js";
import { startTcpProxy } from "../support/tcp-proxy.js";
import type { TcpProxy } from "../support/tcp-proxy.js";
import { waitFor } from "../support/wait-for.js";

/** One library, connected. */
export interface Opened<Tx> {
  /** Undefined for the pool of the store, which a route uses when it says nothing. */
  readonly using: TransactionAdapter<Tx> | undefined;
  close(): Promise<unknown>;
}

export interface Library<Tx> {
  /** Connects to the URL; `pool` is the one of the store. */
  open(url: string, pool: pg.Pool): Promise<Opened<Tx>> | Opened<Tx>;
  /** Writes a row of `orders` in the library's own way and answers its id. */
  insert(tx: Tx, note: string): Promise<number>;
  /** Writes the row with this note anew in the library's own way. */
  touch(tx: Tx, note: string): Promise<unknown>;
  /** Runs SQL without parameters in the library's own way. */
  run(tx: Tx, sql: string): Promise<readonly Record<string, unknown>[]>;
  /** What an error of a use after the end says; default ours. */
  readonly afterEnd?: RegExp;
}

type Handler<Tx> = (req: HttpRequest, res: express.Response, tx: Tx) => unknown;

const schema = `
  CREATE TABLE orders (id serial PRIMARY KEY, note text NOT NULL UNIQUE);
  CREATE TABLE refusals (at_commit text NOT NULL);
  CREATE SEQUENCE refusals_seq;
  CREATE FUNCTION refuse_commit() RETURNS trigger LANGUAGE plpgsql AS $$
  BEGIN
    IF NEW.at_commit = '40001' AND nextval('refusals_seq') > 1 THEN RETURN NULL; END IF;
    RAISE EXCEPTION 'refused at commit' USING ERRCODE = NEW.at_commit;
  END $$;
  CREATE CONSTRAINT TRIGGER refuse_commit AFTER INSERT ON refusals
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse_commit()`;

const commitMessage = /commit;?\0/i;
let counter = 0;
const newKey = (): string => `key-${(counter += 1)}-of-the-suite`;

export function adapterSuite<Tx>(library: Library<Tx>): void {
  let database: Database;
  let idempotent: Idempotency;
  let opened: Opened<Tx>;
  let events: IdempotencyEvent[] = [];

  beforeAll(async () => {
    database = await createDatabase({
      prepare: async (pool) => {
        await migrate({ pool });
        await pool.query(schema);
      },
    });
    idempotent = createIdempotency({
      store: postgresStore({ pool: database.pool }),
      scope: "global",
      workers: false,
      hooks: { onEvent: (event) => void events.push(event) },
    });
    opened = await library.open(database.url, database.pool);
  });
  beforeEach(() => {
    events = [];
  });
  afterAll(async () => {
    await idempotent.close();
    await opened.close();
    await database.drop();
  });

  function app(
    handler: Handler<Tx>,
    route: Omit<TransactionRouteOptions<Tx>, "using"> = {},
    { using } = opened,
    by = idempotent,
  ): express.Express {
    const api = express();
    api.use(express.json());
    const options = { ...route, ...(using === undefined ? {} : { using }) };
    api.post("/orders", by.transaction<HttpRequest, express.Response, Tx>(options, handler));
    api.use(((error: Error & { code?: string }, _req, res, _next) => {
      res.status(500).json({ failed: error.message, code: error.code });
    }) satisfies express.ErrorRequestHandler);
    return api;
  }
  const post = (api: express.Express | Server, key?: string) => {
    const call = request(api).post("/orders").send({ amount: 1 });
    return key === undefined ? call : call.set("Idempotency-Key", key);
  };
  const count = async (note: string): Promise<number> => {
    const result = await database.pool.query("SELECT FROM orders WHERE note = $1", [note]);
    return result.rowCount ?? 0;
  };
  const stateOf = async (key: string): Promise<string | undefined> => {
    const result = await database.pool.query<{ state: string }>(
      "SELECT state FROM idempotency_keys WHERE key = $1",
      [key],
    );
    return result.rows[0]?.state;
  };

  test("commits rows and response together, and replays the same bytes", async () => {
    const key = newKey();
    let runs = 0;
    const api = app(async (req, res, tx) => {
      runs += 1;
      const id = await library.insert(tx, key);
      res.status(201).json({ id, attempt: req.idempotency?.attempt });
    });
    const first = await post(api, key);
    expect([first.status, first.body]).toEqual([201, { id: expect.any(Number), attempt: 1 }]);
    expect(Date.parse(String(first.headers["idempotency-expires"]))).toBeGreaterThan(0);
    const second = await post(api, key);
    expect([second.status, second.text]).toEqual([201, first.text]);
    expect(second.headers["idempotent-replayed"]).toBe("true");
    expect(second.headers["idempotency-expires"]).toBe(first.headers["idempotency-expires"]);
    expect([runs, await count(key), await stateOf(key)]).toEqual([1, 1, "completed"]);
    const other = await request(api)
      .post("/orders")
      .set("Idempotency-Key", key)
      .send({ amount: 2 });
    expect([other.status, other.body.code]).toEqual([422, "key_reused"]);
  });

  test("leaves nothing behind after a throw or a 5xx, and runs again", async () => {
    const key = newKey();
    let runs = 0;
    const api = app(async (_req, res, tx) => {
      runs += 1;
      await library.insert(tx, key);
      if (runs === 1) throw new Error("broken");
      res.status(runs === 2 ? 502 : 201).json({ runs });
    });
    expect((await post(api, key)).body.failed).toBe("broken");
    expect([await count(key), await stateOf(key)]).toEqual([0, undefined]);
    await post(api, key).expect(502);
    expect([await count(key), await stateOf(key)]).toEqual([0, undefined]);
    await post(api, key).expect(201, { runs: 3 });
    await post(api, key).expect(201, { runs: 3 });
    expect(await count(key)).toBe(1);
  });

  test("writes nothing where the handler has swallowed an error of a statement", async () => {
    const key = newKey();
    const api = app(async (_req, res, tx) => {
      await library.insert(tx, key);
      await library.run(tx, "SELECT 1 / 0").catch(() => undefined);
      res.status(201).json({});
    });
    const keyed = await post(api, key);
    expect([keyed.status, keyed.body.code]).toEqual([500, "transaction_failed"]);
    const unkeyed = await post(api);
    expect([unkeyed.status, unkeyed.body.code]).toEqual([500, "transaction_failed"]);
    expect([await count(key), await stateOf(key)]).toEqual([0, undefined]);
  });

  test("holds a second request off while the first one runs", async () => {
    const key = newKey();
    let started: () => void = () => undefined;
    let finish: () => void = () => undefined;
    const running = new Promise<void>((resolve) => (started = resolve));
    const gate = new Promise<void>((resolve) => (finish = resolve));
    const first = post(
      app(async (_req, res, tx) => {
        await library.insert(tx, key);
        started();
        await gate;
        res.status(201).json({});
      }),
      key,
    ).then((response) => response);
    await running;
    // Another instance, so that only Postgres can tell.
    const store = postgresStore({ pool: database.pool });
    const other = createIdempotency({ store, scope: "global", workers: false });
    const elsewhere = app(() => undefined, {}, opened, other);
    const held = await post(elsewhere, key);
    expect([held.status, held.body.code]).toEqual([409, "in_progress"]);
    finish();
    expect((await first).status).toBe(201);
    expect((await post(elsewhere, key)).headers["idempotent-replayed"]).toBe("true");
    await other.close();
  });

  test("20 equal requests at once: one row, and one answer", async () => {
    const key = newKey();
    const server = app(async (_req, res, tx) => {
      res.status(201).json({ id: await library.insert(tx, key) });
    }).listen(0);
    const until = async (): Promise<string> => {
      const response = await waitFor(async () => {
        const one = await post(server, key);
        return one.status === 409 ? undefined : one;
      });
      expect(response.status).toBe(201);
      return response.text;
    };
    const bodies = await Promise.all(Array.from({ length: 20 }, until));
    expect(new Set(bodies).size).toBe(1);
    expect(await count(key)).toBe(1);
    await new Promise((resolve) => server.close(resolve));
  });

  test("a backend that is killed in the middle: nothing is written, and the retry runs", async () => {
    const key = newKey();
    let runs = 0;
    const api = app(async (_req, res, tx) => {
      runs += 1;
      await library.insert(tx, key);
      const [row] = await library.run(tx, "SELECT pg_backend_pid() AS pid");
      if (runs === 1) {
        await database.pool.query("SELECT pg_terminate_backend($1)", [row?.["pid"]]);
        const isGone = "SELECT FROM pg_stat_activity WHERE pid = $1";
        await waitFor(
          async () => (await database.pool.query(isGone, [row?.["pid"]])).rowCount === 0,
        );
      }
      res.status(201).json({ runs });
    });
    const first = await post(api, key);
    expect([first.status, first.body.code]).toEqual([503, "store_unavailable"]);
    expect([await count(key), await stateOf(key)]).toEqual([0, undefined]);
    await post(api, key).expect(201, { runs: 2 });
    expect(await count(key)).toBe(1);
  });

  /** The library behind a proxy; the store reads and settles past it, except where the library is the store's pool. */
  async function withProxy(
    work: (proxy: TcpProxy, send: (key: string, handler: Handler<Tx>) => request.Test) => unknown,
  ): Promise<void> {
    const proxy = await startTcpProxy({ target: database.url });
    const far = new pg.Pool({ connectionString: proxy.via(database.url), max: 2 });
    far.on("error", () => undefined);
    const behind = await library.open(proxy.via(database.url), far);
    const own =
      behind.using === undefined
        ? createIdempotency({ store: postgresStore({ pool: far }), scope: "global" })
        : undefined;
    try {
      await work(proxy, (key, handler) => post(app(handler, {}, behind, own ?? idempotent), key));
    } finally {
      await own?.close();
      await behind.close();
      await far.end();
      await proxy.close();
    }
  }

  test("the reply to COMMIT is lost: the client gets its answer, once it is known to be committed", () =>
    withProxy(async (proxy, send) => {
      const key = newKey();
      let runs = 0;
      const handler: Handler<Tx> = async (_req, res, tx) => {
        runs += 1;
        res.status(201).json({ id: await library.insert(tx, key) });
      };
      const cut = proxy.cutAt(commitMessage);
      const first = await send(key, handler);
      await cut;
      expect(first.status).toBe(201);
      const second = await send(key, handler);
      expect([second.text, second.headers["idempotent-replayed"]]).toEqual([first.text, "true"]);
      expect([runs, await count(key)]).toEqual([1, 1]);
    }));

  test("COMMIT itself never arrives: nothing is written, and the client is told to retry", () =>
    withProxy(async (proxy, send) => {
      const key = newKey();
      const cut = proxy.cutAt(commitMessage, { forward: false });
      const refused = await send(key, async (_req, res, tx) => {
        await library.insert(tx, key);
        res.status(201).json({});
      });
      await cut;
      expect([refused.status, refused.body.code]).toEqual([503, "store_unavailable"]);
      expect([await count(key), await stateOf(key)]).toEqual([0, undefined]);
    }));

  test("runs in the isolation level of the route", async () => {
    for (const isolation of ["read committed", "repeatable read", "serializable"] as const) {
      const api = app(
        async (_req, res, tx) => {
          const [row] = await library.run(
            tx,
            "SELECT current_setting('transaction_isolation') AS it",
          );
          res.json(row);
        },
        { isolation },
      );
      await post(api, newKey()).expect(200, { it: isolation });
      await post(api).expect(200, { it: isolation });
    }
  });

  test("a statement that cannot be serialised: the handler runs again from the start", async () => {
    const key = newKey();
    const shared = `${key} shared`;
    await database.pool.query("INSERT INTO orders (note) VALUES ($1)", [shared]);
    let runs = 0;
    const api = app(
      async (req, res, tx) => {
        runs += 1;
        res.setHeader(`x-run-${runs}`, "1");
        res.status(runs === 1 ? 418 : 201);
        await library.insert(tx, key);
        if (runs === 1)
          await database.pool.query("UPDATE orders SET note = note WHERE note = $1", [shared]);
        await library.touch(tx, shared);
        res.json({ runs, attempt: req.idempotency?.attempt });
      },
      { isolation: "repeatable read" },
    );
    const first = await post(api, key);
    expect([first.status, first.body]).toEqual([201, { runs: 2, attempt: 2 }]);
    expect([first.headers["x-run-1"], first.headers["x-run-2"]]).toEqual([undefined, "1"]);
    expect((await post(api, key)).text).toBe(first.text);
    expect([await count(key), runs]).toEqual([1, 2]);
    const types = events.map(({ type }) => type);
    expect(types.filter((type) => type === "transaction_retried")).toHaveLength(1);
    expect(types.filter((type) => type === "completed")).toHaveLength(1);
  });

  test("a conflict at COMMIT is run again; any other refusal there is a failure", async () => {
    await database.pool.query("ALTER SEQUENCE refusals_seq RESTART");
    const key = newKey();
    let runs = 0;
    const refusedAtCommit = (note: string, state: string): Handler<Tx> => {
      return async (_req, res, tx) => {
        runs += 1;
        await library.insert(tx, note);
        await library.run(tx, `INSERT INTO refusals VALUES ('${state}')`);
        res.status(201).json({ runs });
      };
    };
    await post(app(refusedAtCommit(key, "40001")), key).expect(201, { runs: 2 });
    expect(await count(key)).toBe(1);
    const other = newKey();
    const failed = await post(app(refusedAtCommit(other, "23514")), other);
    expect([failed.status, failed.body.code]).toEqual([500, "transaction_failed"]);
    expect([await count(other), await stateOf(other), runs]).toEqual([0, undefined, 3]);
  });

  test("a handler may neither end the transaction nor use it after its end", async () => {
    const key = newKey();
    let kept: Tx | undefined;
    const api = app(async (_req, res, tx) => {
      kept = tx;
      await library.insert(tx, key);
      res.status(201).json({});
    });
    await post(api, key).expect(201);
    const late = async (): Promise<unknown> => library.insert(kept as Tx, `${key} late`);
    await expect(late()).rejects.toThrow(library.afterEnd ?? /after its end/);
    expect(await count(`${key} late`)).toBe(0);

    const own = newKey();
    const ending = app(async (_req, res, tx) => {
      await library.insert(tx, own);
      await library.run(tx, "ROLLBACK");
      res.status(201).json({});
    });
    expect([(await post(ending, own)).status, await count(own)]).toEqual([500, 0]);
    expect(await stateOf(own)).toBeUndefined();
  });

  test("a message leaves with the commit, and with a rollback nothing does", async () => {
    const key = newKey();
    let runs = 0;
    const api = app(async (req, res, tx) => {
      runs += 1;
      await library.insert(tx, key);
      await req.idempotency?.send("order.created", { note: key });
      if (runs === 1) throw new Error("broken");
      res.status(201).json({});
    });
    const sent = async (): Promise<number> => {
      const sql = "SELECT FROM idempotency_outbox WHERE payload ->> 'note' = $1";
      return (await database.pool.query(sql, [key])).rowCount ?? 0;
    };
    await post(api, key).expect(500);
    expect([await sent(), await count(key)]).toEqual([0, 0]);
    await post(api, key).expect(201);
    expect([await sent(), await count(key)]).toEqual([1, 1]);
  });

  test("works without a key", async () => {
    const note = newKey();
    let runs = 0;
    const api = app(async (req, res, tx) => {
      runs += 1;
      await library.insert(tx, `${note} ${runs}`);
      if (runs === 2) throw new Error("broken");
      res.status(201).json({ has: req.idempotency !== undefined });
    });
    await post(api).expect(201, { has: false });
    await post(api).expect(500);
    expect([await count(`${note} 1`), await count(`${note} 2`)]).toEqual([1, 0]);
  });
}
