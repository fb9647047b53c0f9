/** BEGIN with the claim, and the response with COMMIT, in one write each: what they cost, and errors in their middle. */
import type pg from "pg";

import { isIdempotencyError } from "../../src/core/errors.js";
import type { KeyRef } from "../../src/core/record.js";
import type { Isolation } from "../../src/core/sql-session.js";
import { takesOneWrite, writeTogether } from "../../src/stores/one-write.js";
import { newRef, newRequest } from "./open-stores.js";
import {
  begin,
  causeOf,
  completion,
  insertOrder,
  order,
  useSingleConnections,
  type Ground,
} from "./single-connection.js";

interface Wire {
  readonly parsedStatements: Readonly<Record<string, string>>;
  on(event: "readyForQuery", listener: () => void): unknown;
}
const wireOf = (client: pg.PoolClient): Wire =>
  (client as unknown as { connection: Wire }).connection;

const single = useSingleConnections();
let ref: KeyRef;
beforeEach(() => {
  ref = newRef();
});

describe("what it costs", () => {
  /** Round trips on the pool's connections: each is ended by one ReadyForQuery. */
  function counting({ pool }: Ground): () => number {
    let count = 0;
    pool.on("connect", (client) => {
      wireOf(client).on("readyForQuery", () => {
        count += 1;
      });
    });
    return () => {
      const counted = count;
      count = 0;
      return counted;
    };
  }

  test.each([
    ["prepared", {}],
    ["without names", { prepare: false }],
    ["pooled", { pooler: "transaction" }],
  ])("two round trips and the handler's own: %s", async (_name, options) => {
    const here = single.ground({}, options);
    const trips = counting(here);
    (await here.pool.connect()).release();
    trips();
    for (let time = 0; time < 3; time += 1) {
      const to = newRef();
      const { claim, open, tx } = await begin(here.store, to);
      expect(trips()).toBe(1);
      await insertOrder(tx, to);
      expect(trips()).toBe(1);
      expect((await open.complete(claim, completion)).kind).toBe("committed");
      expect(trips()).toBe(1);
      expect([await single.orders(to), await single.stateOfKey(to)]).toEqual([1, "completed"]);
    }
  });

  test("a request without a key is begun and committed in one each; a refusal costs two more", async () => {
    const here = single.ground();
    const trips = counting(here);
    (await here.pool.connect()).release();
    trips();
    const unkeyed = await here.store.transactions?.begin({ timeoutMs: 10_000 });
    expect(trips()).toBe(1);
    expect((await unkeyed?.commit())?.kind).toBe("committed");
    expect(trips()).toBe(1);
    await order(here.store, ref);
    trips();
    const request = newRequest(ref, { guarantee: "transaction" });
    const again = await here.store.transactions?.claim(request, { timeoutMs: 10_000 });
    expect(again?.kind === "exists" && again.record.state).toBe("completed");
    expect(trips()).toBe(3);
  });

  test("many at once that find a completed key all read it, and none is told that it is in progress", async () => {
    const here = single.ground({ max: 8 });
    await order(here.store, ref);
    const asked = Array.from({ length: 40 }, async () =>
      here.store.transactions?.claim(newRequest(ref, { guarantee: "transaction" }), {
        timeoutMs: 10_000,
      }),
    );
    const kinds = (await Promise.all(asked)).map((answer) => answer?.kind);
    expect(new Set(kinds)).toEqual(new Set(["exists"]));
  });

  test("limits and isolation hold in the statement that comes right behind them", async () => {
    const { store } = single.ground();
    const request = newRequest(ref, { guarantee: "transaction" });
    const answer = await store.transactions?.claim(request, {
      timeoutMs: 7_000,
      isolation: "serializable",
    });
    if (answer?.kind !== "claimed") throw new Error("claimed was expected");
    const { rows } = await (answer.open.tx as pg.PoolClient).query(
      `SELECT current_setting('transaction_isolation') AS isolation, current_setting('statement_timeout') AS statement,
         current_setting('idle_in_transaction_session_timeout') AS idle, current_setting('synchronous_commit') AS sync`,
    );
    expect(rows).toEqual([{ isolation: "serializable", statement: "7s", idle: "7s", sync: "on" }]);
    await answer.open.rollback();
  });
});

describe("an error in the middle", () => {
  /** Names that pg believes to be prepared on the pool's connection, and those that are. */
  async function names({ pool }: Ground): Promise<{ believed: string[]; real: string[] }> {
    const client = await pool.connect();
    const { rows } = await client.query<{ name: string }>(
      "SELECT name FROM pg_prepared_statements",
    );
    const believed = Object.keys(wireOf(client).parsedStatements);
    client.release();
    return { believed: believed.toSorted(), real: rows.map(({ name }) => name).toSorted() };
  }
  async function backend({ pool }: Ground): Promise<number> {
    const { rows } = await pool.query<{ pid: number }>("SELECT pg_backend_pid() AS pid");
    return rows[0]?.pid ?? 0;
  }

  test.each<[string, Isolation | undefined, Partial<KeyRef>, string]>([
    // BEGIN itself: what is behind it is never parsed.
    ["before the claim is parsed", "nonsense" as Isolation, {}, "42601"],
    // Parsed and refused for a value: prepared, yet failed.
    ["in the claim itself", undefined, { key: "k\0" }, "22021"],
    ["in the record", "repeatable read", { key: "k".repeat(256) }, "23514"],
  ])("%s leaves the connection as good as new", async (_name, isolation, wrong, code) => {
    for (const isWarm of [false, true]) {
      const here = single.ground();
      const pid = await backend(here);
      if (isWarm) await order(here.store, newRef());
      await expect(
        begin(here.store, { ...ref, ...wrong }, 10_000, isolation),
      ).rejects.toMatchObject({
        code,
      });
      const { believed, real } = await names(here);
      expect(real).toEqual(expect.arrayContaining(believed));
      await single.untilNothingIsOpen();
      for (let time = 0; time < 2; time += 1)
        expect((await order(here.store, newRef())).kind).toBe("committed");
      const prepared = ["begin", "guard", "store", "unguard"].map((name) => `oncekey_tx-${name}`);
      const now = await names(here);
      expect(now.believed).toEqual(expect.arrayContaining(prepared));
      expect(now.real).toEqual(expect.arrayContaining(now.believed));
      expect(await backend(here)).toBe(pid);
    }
  });

  test("a transaction that is aborted already is ended, and its connection is used again", async () => {
    const here = single.ground();
    const pid = await backend(here);
    const { claim, open, tx } = await begin(here.store, ref);
    await tx.query("SELECT 1 / 0").catch(() => undefined);
    expect(causeOf(await open.complete(claim, completion))).toMatchObject({ code: "25P02" });
    await single.untilNothingIsOpen();
    expect((await order(here.store, ref)).kind).toBe("committed");
    expect(await backend(here)).toBe(pid);
  });

  test("statements that somebody has dropped behind the driver's back are prepared again", async () => {
    const here = single.ground();
    await order(here.store, newRef());
    await here.pool.query("DEALLOCATE ALL");
    const kinds: string[] = [];
    for (let time = 0; time < 8; time += 1)
      kinds.push(
        await order(here.store, newRef()).then(
          ({ kind }) => kind,
          () => "refused",
        ),
      );
    expect(kinds.slice(-2)).toEqual(["committed", "committed"]);
  });

  test.each([
    ["deleted", "DELETE FROM idempotency_keys WHERE scope = $1"],
    ["completed", "UPDATE idempotency_keys SET state = 'running' WHERE scope = $1"],
    ["stolen", "UPDATE idempotency_keys SET claim_id = gen_random_uuid() WHERE scope = $1"],
  ])(
    "a row that the handler has %s commits nothing, although COMMIT is on its way",
    async (_name, sql) => {
      const here = single.ground();
      // Under this level the record is there before its response.
      const { claim, open, tx } = await begin(here.store, ref, 10_000, "repeatable read");
      await insertOrder(tx, ref);
      await tx.query(sql, [ref.scope]);
      const cause = causeOf(await open.complete(claim, completion));
      expect(isIdempotencyError(cause) && cause.code).toBe("transaction_ended");
      expect([await single.orders(ref), await single.stateOfKey(ref)]).toEqual([0, undefined]);
      await single.untilNothingIsOpen();
      expect((await order(here.store, ref)).kind).toBe("committed");
    },
  );

  test("a record that somebody writes without the key's lock is a conflict, and the primary key decides", async () => {
    const here = single.ground();
    const other = single.ground();
    await order(other.store, newRef());
    const { claim, open, tx } = await begin(here.store, ref);
    await insertOrder(tx, ref);
    await other.pool.query(
      `INSERT INTO idempotency_keys SELECT (json_populate_record(k, json_build_object('scope', $1::text, 'key', $2::text))).*
         FROM idempotency_keys k LIMIT 1`,
      [ref.scope, ref.key],
    );
    const cause = causeOf(await open.complete(claim, completion));
    expect(isIdempotencyError(cause) && [cause.code, cause.retryable]).toEqual([
      "transaction_conflict",
      true,
    ]);
    expect([await single.orders(ref), await single.stateOfKey(ref)]).toEqual([0, "completed"]);
  });
});

describe("an end that slips past the guard", () => {
  /** To one who does not know E'' strings, everything after the first quote is text. */
  const slip = (text: string): string => `SELECT E'\\''; ${text} --'`;

  test.each([
    "COMMIT",
    "COMMIT; BEGIN",
    "COMMIT AND CHAIN",
    "END",
    "SAVEPOINT a; COMMIT",
    "PREPARE TRANSACTION 'slipped'",
  ])("by %j fails, and nothing is committed", async (text) => {
    const here = single.ground();
    const { claim, open, tx } = await begin(here.store, ref);
    await insertOrder(tx, ref);
    const refused = await tx.query(slip(text)).then(
      () => undefined,
      (error: { code?: string }) => error.code,
    );
    expect(["2D000", "0A000", "55000"]).toContain(refused);
    // Whatever the handler makes of the error.
    const cause = causeOf(await open.complete(claim, completion));
    expect(isIdempotencyError(cause) ? cause.code : cause).toBe("transaction_ended");
    await single.untilNothingIsOpen();
    expect([await single.orders(ref), await single.stateOfKey(ref)]).toEqual([0, undefined]);
    expect((await order(here.store, ref)).kind).toBe("committed");
    expect(await single.orders(ref)).toBe(1);
  });

  test.each(["ROLLBACK", "COMMIT"])(
    "by %j: no statement runs behind it, in no transaction",
    async (text) => {
      const here = single.ground();
      const { claim, open, tx } = await begin(here.store, ref);
      const slipped = tx.query(slip(text)).catch(() => undefined);
      const queued = insertOrder(tx, ref);
      await expect(queued).rejects.toThrow();
      await slipped;
      expect(() => tx.query("SELECT 1")).toThrow("tx was used after its end");
      const cause = causeOf(await open.complete(claim, completion));
      expect(isIdempotencyError(cause) && cause.code).toBe("transaction_ended");
      await single.untilNothingIsOpen();
      expect([await single.orders(ref), await single.stateOfKey(ref)]).toEqual([0, undefined]);
      expect((await order(here.store, ref)).kind).toBe("committed");
    },
  );

  test("by ROLLBACK and a new BEGIN is noticed before the commit", async () => {
    const here = single.ground();
    const { claim, open, tx } = await begin(here.store, ref);
    await tx.query(slip("ROLLBACK; BEGIN"));
    await insertOrder(tx, ref);
    const cause = causeOf(await open.complete(claim, completion));
    expect(isIdempotencyError(cause) && cause.code).toBe("transaction_ended");
    await single.untilNothingIsOpen();
    expect([await single.orders(ref), await single.stateOfKey(ref)]).toEqual([0, undefined]);
  });

  test.each(["COMMIT", "COMMIT; BEGIN"])(
    "by %j where the record is there before its response leaves the key behind, and its outcome unknown",
    async (text) => {
      const here = single.ground();
      const { claim, open, tx } = await begin(here.store, ref, 10_000, "repeatable read");
      await tx.query(slip(text));
      const cause = causeOf(await open.complete(claim, completion));
      expect(isIdempotencyError(cause) && cause.code).toBe("transaction_ended");
      expect(await single.stateOfKey(ref)).toBe("running");
    },
  );

  test("fails on a client that pipelines by itself too", async () => {
    const here = single.ground({ pipeline: true });
    const { claim, open, tx } = await begin(here.store, ref);
    await insertOrder(tx, ref);
    await expect(tx.query(slip("COMMIT"))).rejects.toMatchObject({ code: "2D000" });
    const cause = causeOf(await open.complete(claim, completion));
    expect(isIdempotencyError(cause) && cause.code).toBe("transaction_ended");
    await single.untilNothingIsOpen();
    expect([await single.orders(ref), await single.stateOfKey(ref)]).toEqual([0, undefined]);
  });
});

describe("who sends it", () => {
  test("clients that pipeline by themselves get one statement after another", async () => {
    const here = single.ground({ pipeline: true });
    expect((await order(here.store, ref)).kind).toBe("committed");
    expect([await single.orders(ref), await single.stateOfKey(ref)]).toEqual([1, "completed"]);
    const client = await here.pool.connect();
    expect(takesOneWrite(client)).toBe(false);
    client.release();
    expect(takesOneWrite({ native: {} } as unknown as pg.PoolClient)).toBe(false);
  });

  test("tracers that copy the statement, change its text and wrap its callback are in nobody's way", async () => {
    const here = single.ground();
    const traced: string[] = [];
    here.pool.on("connect", (client) => {
      const original = client.query.bind(client) as (...all: unknown[]) => unknown;
      type Traced = { text: string; callback?: (...args: unknown[]) => unknown };
      const query = (config: Traced | string, ...rest: unknown[]): unknown => {
        if (typeof config === "string" || config.callback === undefined)
          return original(config, ...rest);
        const { callback } = config;
        const copy = { ...config, text: `${config.text} /* traced */` };
        copy.callback = function wrapped(this: unknown, ...args) {
          traced.push(config.text.slice(0, 5));
          return callback.apply(this, args);
        };
        return original(copy);
      };
      Object.assign(client, { query });
    });
    expect((await order(here.store, ref)).kind).toBe("committed");
    expect(traced).toEqual(["BEGIN", "CLOSE"]);
  });

  test("values are sent as they are: text of any script, bytes, numbers and nothing", async () => {
    const here = single.ground();
    const client = await here.pool.connect();
    const values = [
      "käse 🧀 ' \\ \n",
      Buffer.from([0, 255, 10]),
      new Uint8Array([7]),
      1.5,
      null,
      "",
    ];
    const text =
      "SELECT $1::text, encode($2::bytea, 'hex'), encode($3::bytea, 'hex'), $4::float8 * 2, $5::text, $6::text";
    const statements = [
      { text, values },
      { name: "käse", text: "SELECT 1 WHERE false", values: [] },
      { name: "käse-2", text, values },
    ];
    for (let time = 0; time < 2; time += 1) {
      const written = await writeTogether(client, statements, 5_000);
      const row = ["käse 🧀 ' \\ \n", "00ff0a", "07", "3", null, ""];
      expect(written).toEqual({
        kind: "answered",
        answers: [
          { rows: [row], tag: "SELECT 1" },
          { rows: [], tag: "SELECT 0" },
          { rows: [row], tag: "SELECT 1" },
        ],
      });
    }
    const refused = await writeTogether(client, [{ text: "SELECT $1::text", values: [{}] }], 5_000);
    expect(refused).toMatchObject({ kind: "failed", answered: 0, isSent: false });
    expect((await client.query("SELECT 1 AS one")).rows).toEqual([{ one: 1 }]);
    client.release();
  });
});
