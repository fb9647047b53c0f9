/**
 * A primary that dies and a streaming replica that is promoted. docs/guarantees.md: with synchronous replication nothing that a
 * client saw is lost; with asynchronous replication what was committed last is, and this shows what that means.
 */
import { connect, createServer, type AddressInfo, type Socket } from "node:net";

import pg from "pg";

import { migrate } from "../../src/stores/postgres.js";
import { startPostgres, type PostgresServer } from "../support/postgres-server.js";
import { type Replica, startReplica } from "../support/postgres-replica.js";
import { redisUrl } from "../support/servers.js";
import { startTcpProxy, type TcpProxy } from "../support/tcp-proxy.js";
import { waitFor } from "../support/wait-for.js";
import { type Answer, newKey, outcome, post, retry } from "./client.js";
import { type Gate, startGate } from "./gate.js";
import { countEffects, type Shop, startShop } from "./shop.js";
import { complaints, startTraffic } from "./traffic.js";

/** One address for whoever is the primary, as a virtual IP or a name would be. */
type Door = { readonly url: string; leadTo(port: number): void; close(): Promise<void> };

async function openDoor(port: number): Promise<Door> {
  let target = port;
  const sockets = new Set<Socket>();
  const server = createServer((client) => {
    const through = connect({ port: target, host: "127.0.0.1" });
    for (const [one, other] of [
      [client, through],
      [through, client],
    ] as const) {
      sockets.add(one);
      one.on("error", () => undefined);
      one.on("close", () => {
        sockets.delete(one);
        other.destroy();
      });
      one.pipe(other);
    }
  });
  await new Promise<void>((done) => {
    server.listen(0, "127.0.0.1", done);
  });
  const closeAll = (): void => {
    for (const socket of sockets) socket.destroy();
  };
  return {
    url: `postgres://postgres@127.0.0.1:${(server.address() as AddressInfo).port}/postgres`,
    leadTo: (next) => {
      target = next;
      closeAll();
    },
    close: async () => {
      closeAll();
      await new Promise((done) => server.close(done));
    },
  };
}

let primary: PostgresServer;
/** Between the replica and the primary. */
let wal: TcpProxy;
let replica: Replica;
let door: Door;
let gate: Gate;
const shops: Shop[] = [];
const pools: pg.Pool[] = [];

function open(url: string): pg.Pool {
  const pool = new pg.Pool({ connectionString: url, max: 2 });
  pool.on("error", () => undefined);
  pools.push(pool);
  return pool;
}

beforeEach(async () => {
  primary = await startPostgres();
  const pool = open(primary.url);
  await migrate({ pool });
  await pool.query("CREATE TABLE effects (key text NOT NULL)");
  wal = await startTcpProxy({ target: primary.url });
  replica = await startReplica(primary, wal.via(primary.url));
  await replica.caughtUp();
  door = await openDoor(primary.port);
  gate = await startGate();
});
afterEach(async () => {
  for (const shop of shops.splice(0)) await shop.kill();
  await Promise.all(pools.splice(0).map((pool) => pool.end()));
  await gate.close();
  await door.close();
  await wal.close();
  await Promise.all([primary.end(), replica.end()]);
});

async function replicateSynchronously(): Promise<void> {
  const pool = open(primary.url);
  // A default of somebody who was in a hurry, which the library must overrule.
  await pool.query("ALTER ROLE postgres SET synchronous_commit = local");
  await pool.query("ALTER SYSTEM SET synchronous_standby_names = '*'");
  await pool.query("SELECT pg_reload_conf()");
  await waitFor(async () => {
    const { rowCount } = await pool.query(
      "SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'",
    );
    return rowCount === 1;
  });
}

async function openShop(): Promise<Shop> {
  const started = await startShop({
    databaseUrl: door.url,
    gate,
    redisUrl: redisUrl(),
    connectTimeoutMs: 500,
    storeTimeoutMs: 700,
    transactionTimeoutMs: 1_000,
    idempotency: { claimTimeoutMs: 700, completeTimeoutMs: 1_500 },
  });
  shops.push(started);
  return started;
}

async function failOver(): Promise<pg.Pool> {
  await primary.kill();
  await replica.promote();
  door.leadTo(replica.port);
  return open(replica.url);
}

const isReplay = ({ headers }: Answer): boolean => headers["idempotent-replayed"] === "true";

test("with synchronous replication nothing that a client saw is lost", async () => {
  await replicateSynchronously();
  const served = await openShop();
  const traffic = startTraffic({
    clients: 6,
    routes: ["/plain", "/transaction"].map((path) => ({ path, body: {} })),
    urls: () => [served.url],
  });
  await traffic.progress(40);
  const promoted = await failOver();
  await traffic.progress(40);
  const stories = await traffic.finish();
  const answered = stories.filter(({ successes }) => successes.size > 0);
  expect(answered.length).toBeGreaterThan(60);
  for (const story of stories) {
    const isTransaction = story.path === "/transaction";
    const effects = isTransaction ? await countEffects(promoted, story.key) : gate.runs(story.key);
    expect(complaints(story, effects)).toEqual([]);
  }
  // Every answer of before is the answer of now, by a process that has nothing in its memory.
  const fresh = await openShop();
  for (const { key, path, body, stored } of answered.slice(0, 30)) {
    const again = await retry(fresh.url, path, { key, body });
    expect([isReplay(again), `${again.status} ${again.bytes.toString("latin1")}`]).toEqual([
      true,
      [...stored][0],
    ]);
  }
});

test("with synchronous replication nobody is told of a success that only the primary has", async () => {
  await replicateSynchronously();
  const served = await openShop();
  const key = newKey();
  wal.refuse();
  const refused = await post(served.url, "/transaction", { key });
  expect(outcome(refused)).toEqual([503, "store_unavailable"]);
  // It lies on the primary, waiting for the replica, and is not to be seen by anybody.
  expect(outcome(await post(served.url, "/transaction", { key }))[0]).not.toBe(201);
  wal.heal();
  const made = await retry(served.url, "/transaction", { key });
  expect(made.status).toBe(201);
  expect(await countEffects(open(primary.url), key)).toBe(1);
});

test("with asynchronous replication a commit that never arrived is undone, and its key is free again", async () => {
  const served = await openShop();
  const [kept, lost] = [newKey(), newKey()];
  const before = await post(served.url, "/transaction", { key: kept });
  expect(before.status).toBe(201);
  await replica.caughtUp();
  // The line to the replica breaks, and the primary goes on.
  wal.refuse();
  const seen = await post(served.url, "/transaction", { key: lost });
  expect(seen.status).toBe(201);
  // Redis has it: it is replayed while Postgres does not say a word.
  primary.freeze();
  const cached = await retry(served.url, "/transaction", { key: lost });
  primary.thaw();
  expect([isReplay(cached), cached.bytes]).toEqual([true, seen.bytes]);

  const promoted = await failOver();
  expect((await retry(served.url, "/transaction", { key: kept })).bytes).toEqual(before.bytes);
  expect(await countEffects(promoted, lost)).toBe(0);
  // Redis has that response still. It belongs to a history that has ended, so that it is not replayed: the work is done again
  // and there is exactly one effect where the truth is now.
  const again = await retry(served.url, "/transaction", { key: lost });
  expect([again.status, isReplay(again)]).toEqual([201, false]);
  expect(again.bytes).not.toEqual(seen.bytes);
  expect(await countEffects(promoted, lost)).toBe(1);
  const fresh = await openShop();
  const replayed = await retry(fresh.url, "/transaction", { key: lost });
  expect([isReplay(replayed), replayed.bytes]).toEqual([true, again.bytes]);
});

test("with asynchronous replication a claim that never arrived lets a plain handler run a second time", async () => {
  const served = await openShop();
  const key = newKey();
  wal.refuse();
  expect((await post(served.url, "/plain", { key })).status).toBe(201);
  await failOver();
  expect((await retry(served.url, "/plain", { key })).status).toBe(201);
  // What the handler did outside the database is done twice. Only synchronous replication, or a downstream that takes
  // keys, is a help.
  expect(gate.runs(key)).toBe(2);
});
