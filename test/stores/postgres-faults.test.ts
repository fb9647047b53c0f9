import pg from "pg";

import type { CacheableStore } from "../../src/core/ports.js";
import type { KeyRef } from "../../src/core/record.js";
import { migrate, postgresStore } from "../../src/stores/postgres.js";
import { startPostgres } from "../support/postgres-server.js";
import { startTcpProxy } from "../support/tcp-proxy.js";
import { waitFor } from "../support/wait-for.js";
import {
  claimed,
  created,
  leaseMs,
  newRef,
  newRequest,
  useMigratedDatabase,
  whileLocked,
  windows,
} from "./open-stores.js";

const database = useMigratedDatabase();
const completion = { response: created, ...windows };
const limits = { timeoutMs: 10_000 };

let store: CacheableStore;
let ref: KeyRef;

beforeEach(() => {
  store = postgresStore({ pool: database.pool });
  ref = newRef();
});
afterEach(() => store.close());

describe("lost replies", () => {
  async function throughProxy(
    work: (proxied: CacheableStore, lose: (forward: boolean) => Promise<void>) => Promise<void>,
  ) {
    const proxy = await startTcpProxy({ target: database.url });
    const pool = new pg.Pool({ connectionString: proxy.via(database.url) });
    pool.on("error", () => {});
    const proxied = postgresStore({ pool });
    try {
      await proxied.find(ref);
      await work(proxied, (forward) =>
        proxy.cutAt(/oncekey_(claim|complete|release)\0/, { forward }),
      );
    } finally {
      await proxied.close();
      await pool.end();
      await proxy.close();
    }
  }

  test("a claim whose reply was lost is found by its claim id", async () => {
    await throughProxy(async (proxied, lose) => {
      const request = newRequest(ref);
      const cut = lose(true);
      await expect(proxied.claim(request)).rejects.toThrow();
      await cut;
      expect(await proxied.claim(request)).toMatchObject({
        kind: "exists",
        record: { state: "running", claimId: request.claimId },
      });
    });
  });

  test("a claim that never arrived is made", async () => {
    await throughProxy(async (proxied, lose) => {
      const request = newRequest(ref);
      const cut = lose(false);
      await expect(proxied.claim(request)).rejects.toThrow();
      await cut;
      await claimed(proxied.claim(request));
    });
  });

  test("a completion whose reply was lost answers as the first one", async () => {
    await throughProxy(async (proxied, lose) => {
      const claim = await claimed(proxied.claim(newRequest(ref)));
      const cut = lose(true);
      await expect(proxied.complete(claim, completion)).rejects.toThrow();
      await cut;
      const first = await store.find(ref);
      const answer = await proxied.complete(claim, completion);
      expect(answer).toEqual({ kind: "ok", replayUntilMs: first?.record.replayUntilMs });
    });
  });

  test("a release whose reply was lost is lost when repeated, and the key is free", async () => {
    await throughProxy(async (proxied, lose) => {
      const claim = await claimed(proxied.claim(newRequest(ref)));
      const cut = lose(true);
      await expect(proxied.release(claim)).rejects.toThrow();
      await cut;
      expect(await proxied.release(claim)).toBe("lost");
      await claimed(proxied.claim(newRequest(ref)));
    });
  });
});

describe("time limits", () => {
  test("a statement that takes too long is given up, and the store goes on", async () => {
    const hasty = postgresStore({ pool: database.pool, timeoutMs: 200 });
    await hasty.find(ref);
    await whileLocked(
      database.pool,
      "LOCK TABLE idempotency_keys IN ACCESS EXCLUSIVE MODE",
      [],
      async () => {
        const startedMs = performance.now();
        await expect(hasty.claim(newRequest(ref))).rejects.toThrow("statement timeout");
        expect(performance.now() - startedMs).toBeLessThan(2_000);
      },
    );
    await claimed(hasty.claim(newRequest(ref)));
    await hasty.close();
  });

  test("a server that hangs is given up by plain and transaction claims, and used again", async () => {
    const server = await startPostgres();
    const pool = new pg.Pool({ connectionString: server.url });
    pool.on("error", () => {});
    await migrate({ pool });
    const hasty = postgresStore({ pool, timeoutMs: 200 });
    const claim = await claimed(hasty.claim(newRequest(ref)));
    expect(hasty.epoch()).toBeDefined();
    const open = await hasty.transactions?.begin({ timeoutMs: 200 });
    server.freeze();
    const startedMs = performance.now();
    await expect(hasty.complete(claim, completion)).rejects.toThrow();
    await expect(hasty.claim(newRequest(newRef()))).rejects.toThrow();
    expect(hasty.epoch()).toBeUndefined();
    await expect(
      hasty.transactions?.claim(newRequest(newRef()), { timeoutMs: 200 }),
    ).rejects.toThrow();
    expect((await open?.commit())?.kind).toBe("unknown");
    expect(performance.now() - startedMs).toBeLessThan(4_000);
    server.thaw();
    await waitFor(async () => (await hasty.complete(claim, completion)).kind === "ok");
    await hasty.close();
    await pool.end();
    await server.end();
  });

  test("claims are completed while handlers hold every connection of the pool", async () => {
    const pool = new pg.Pool({ connectionString: database.url, max: 1 });
    const crowded = postgresStore({ pool });
    const claim = await claimed(crowded.claim(newRequest(ref)));
    const open = await crowded.transactions?.begin(limits);
    expect(await crowded.heartbeat([claim], leaseMs)).toEqual([]);
    expect((await crowded.complete(claim, completion)).kind).toBe("ok");
    await open?.rollback();
    await crowded.close();
    expect((await pool.query("SELECT 1 AS one")).rows).toEqual([{ one: 1 }]);
    await pool.end();
  });
});
