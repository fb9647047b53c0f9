import pg from "pg";

import type { CacheableStore, OpenTransaction } from "../../src/core/ports.js";
import type { Claim, KeyRef } from "../../src/core/record.js";
import { postgresStore } from "../../src/stores/postgres.js";
import { startTcpProxy } from "../support/tcp-proxy.js";
import { waitFor } from "../support/wait-for.js";
import {
  advanceClock,
  created,
  newRef,
  newRequest,
  untilSomebodyWaits,
  useMigratedDatabase,
  windows,
} from "./open-stores.js";

const database = useMigratedDatabase();
const completion = { response: created, ...windows };
const limits = { timeoutMs: 10_000 };

let store: CacheableStore;
let ref: KeyRef;

beforeAll(() => database.pool.query("CREATE TABLE orders (id text PRIMARY KEY)"));
beforeEach(() => {
  store = postgresStore({ pool: database.pool });
  ref = newRef();
});
afterEach(() => store.close());

type Begun = { readonly claim: Claim; readonly open: OpenTransaction; readonly tx: pg.PoolClient };

async function begin(given: CacheableStore = store, timeoutMs = 10_000): Promise<Begun> {
  const request = newRequest(ref, { guarantee: "transaction" });
  const answer = await given.transactions?.claim(request, { timeoutMs });
  if (answer?.kind !== "claimed") throw new Error(`claimed was expected, ${answer?.kind} came`);
  return { ...answer, tx: answer.open.tx as pg.PoolClient };
}

async function orderExists(): Promise<boolean> {
  const { rows } = await database.pool.query("SELECT FROM orders WHERE id = $1", [ref.scope]);
  return rows.length > 0;
}

function insertOrder(tx: pg.PoolClient): Promise<unknown> {
  return tx.query("INSERT INTO orders VALUES ($1)", [ref.scope]);
}

test("claim, rows and response are one commit", async () => {
  const { claim, open, tx } = await begin();
  await insertOrder(tx);
  expect(await orderExists()).toBe(false);
  expect(await store.find(ref)).toBeUndefined();
  expect((await open.complete(claim, completion)).kind).toBe("committed");
  expect(await orderExists()).toBe(true);
  expect((await store.find(ref))?.record.response).toEqual(created);
});

test("claims that come in the moment of the commit never win the key again", async () => {
  const kinds = new Set<string | undefined>();
  for (let round = 0; round < 150; round += 1) {
    ref = newRef();
    const { claim, open } = await begin();
    const completing = open.complete(claim, completion);
    // Each begins a little later; some take their snapshot before the commit and ask for the lock after it.
    const asked = Array.from({ length: 6 }, async () => {
      const answer = await store.transactions?.claim(
        newRequest(ref, { guarantee: "transaction" }),
        limits,
      );
      if (answer?.kind === "claimed") await answer.open.rollback();
      return answer?.kind;
    });
    expect((await completing).kind).toBe("committed");
    for (const kind of await Promise.all(asked)) kinds.add(kind);
  }
  expect(kinds.has("exists")).toBe(true);
  expect(kinds.has("claimed")).toBe(false);
});

test("a rollback leaves nothing and frees the key", async () => {
  const { open, tx } = await begin();
  await insertOrder(tx);
  await open.rollback();
  await open.rollback();
  expect(await orderExists()).toBe(false);
  await (await begin()).open.rollback();
});

test("an aborted transaction is not taken for a commit", async () => {
  const { claim, open, tx } = await begin();
  await insertOrder(tx);
  await expect(tx.query("SELECT 1 / 0")).rejects.toThrow("division by zero");
  expect((await open.complete(claim, completion)).kind).toBe("rolled_back");
  const unkeyed = await store.transactions?.begin(limits);
  const other = unkeyed?.tx as pg.PoolClient;
  await expect(other.query("SELECT 1 / 0")).rejects.toThrow();
  expect(await unkeyed?.commit()).toMatchObject({ kind: "rolled_back" });
  expect(await orderExists()).toBe(false);
  expect(await store.find(ref)).toBeUndefined();
});

test("a deferred constraint that fails at COMMIT is a rollback", async () => {
  await database.pool.query(
    `CREATE TABLE payments (order_id text REFERENCES orders DEFERRABLE INITIALLY DEFERRED)`,
  );
  const { claim, open, tx } = await begin();
  await tx.query("INSERT INTO payments VALUES ('none')");
  expect((await open.complete(claim, completion)).kind).toBe("rolled_back");
  expect(await store.find(ref)).toBeUndefined();
});

test.each([
  "COMMIT",
  "rollback",
  " /* so */ END;",
  "SELECT 1; COMMIT",
  "-- no\nABORT",
  "BEGIN",
  "CLOSE ALL",
])("the handler cannot end its transaction by %j", async (text) => {
  const { open, tx } = await begin();
  expect(() => tx.query(text)).toThrow();
  expect(() => tx.query({ text })).toThrow();
  await open.rollback();
});

test("savepoints are the handler's, and so is text that only looks like an end", async () => {
  const { claim, open, tx } = await begin();
  await tx.query("SAVEPOINT a");
  await expect(tx.query("SELECT 1 / 0")).rejects.toThrow();
  await tx.query("ROLLBACK TO SAVEPOINT a");
  await tx.query("SELECT ';commit' AS \"; rollback\" -- ; commit");
  await insertOrder(tx);
  expect((await open.complete(claim, completion)).kind).toBe("committed");
});

test("tx is of no use after its end", async () => {
  const { open, tx } = await begin();
  await open.rollback();
  expect(() => tx.query("SELECT 1")).toThrow("tx was used after its end");
  expect(() => tx.release()).toThrow();
});

test("a transaction that idles too long is ended by the server", async () => {
  const { claim, open } = await begin(store, 200);
  await waitFor(async () => (await store.claim(newRequest(ref))).kind !== "locked");
  expect((await open.complete(claim, completion)).kind).toBe("rolled_back");
});

describe("a lost reply to COMMIT", () => {
  async function loseCommit(forward: boolean): Promise<{ claim: Claim; kind: string }> {
    const proxy = await startTcpProxy({ target: database.url });
    const pool = new pg.Pool({ connectionString: proxy.via(database.url) });
    pool.on("error", () => {});
    const proxied = postgresStore({ pool });
    const { claim, open, tx } = await begin(proxied);
    await insertOrder(tx);
    const cut = proxy.cutAt("commit", { forward });
    const { kind } = await open.complete(claim, completion);
    await cut;
    await proxied.close();
    await pool.end();
    await proxy.close();
    return { claim, kind };
  }

  test("is unknown, and settled as committed where it was", async () => {
    const { claim, kind } = await loseCommit(true);
    expect(kind).toBe("unknown");
    const settled = await store.transactions?.settle(claim, windows);
    expect(settled?.record).toMatchObject({ claimId: claim.claimId, state: "completed" });
    expect(await orderExists()).toBe(true);
  });

  test("is unknown, and settled as nothing where COMMIT never arrived", async () => {
    const { claim, kind } = await loseCommit(false);
    expect(kind).toBe("unknown");
    expect(await store.transactions?.settle(claim, windows)).toBeUndefined();
    expect(await orderExists()).toBe(false);
    await (await begin()).open.rollback();
  });

  test.each(["complete", "rollback"] as const)(
    "settling waits for the transaction to %s",
    async (end) => {
      const { claim, open } = await begin();
      const settling = store.transactions?.settle(claim, windows);
      await untilSomebodyWaits(database.pool, "advisory");
      if (end === "complete") await open.complete(claim, completion);
      else await open.rollback();
      expect((await settling)?.record.state).toBe(end === "complete" ? "completed" : undefined);
      expect((await store.find(ref))?.record.state).toBe(
        end === "complete" ? "completed" : undefined,
      );
    },
  );

  test.each(["complete", "rollback"] as const)(
    "settling waits for a take-over to %s",
    async (end) => {
      const first = await begin();
      await first.open.complete(first.claim, completion);
      await advanceClock(database.pool, windows.dedupeWindowMs + 1_000);
      const found = await store.find(ref);
      if (found === undefined) throw new Error("the key exists");
      const request = newRequest(ref, { guarantee: "transaction" });
      const taken = await store.transactions?.takeOver(request, found.record, limits);
      if (taken?.kind !== "claimed") throw new Error("claimed was expected");
      expect((await store.takeOver(newRequest(ref), found.record)).kind).toBe("exists");
      const settling = store.transactions?.settle(taken.claim, windows);
      await untilSomebodyWaits(database.pool, "advisory");
      if (end === "complete") await taken.open.complete(taken.claim, completion);
      else await taken.open.rollback();
      const expected = end === "complete" ? taken.claim.claimId : first.claim.claimId;
      expect((await settling)?.record.claimId).toBe(expected);
    },
  );
});
