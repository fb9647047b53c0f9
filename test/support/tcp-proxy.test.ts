import { once } from "node:events";
import { type AddressInfo, connect, createServer } from "node:net";
import { text } from "node:stream/consumers";

import pg from "pg";

import { useDatabase } from "./databases.js";
import { seededRandom, startTcpProxy, type TcpProxy } from "./tcp-proxy.js";
import { waitFor } from "./wait-for.js";

const database = useDatabase({ prepare: (pool) => pool.query("create table t (id int)") });
let proxy: TcpProxy;

beforeEach(async () => {
  proxy = await startTcpProxy({ target: database.url });
});

afterEach(async () => {
  await proxy.close();
});

async function connected(): Promise<pg.Client> {
  const client = new pg.Client({ connectionString: proxy.via(database.url) });
  client.on("error", () => {});
  await client.connect();
  return client;
}

async function rows(): Promise<unknown[]> {
  return (await database.pool.query("select id from t order by id")).rows as unknown[];
}

test("the reply to COMMIT is lost and the transaction is committed", async () => {
  const client = await connected();
  const cut = proxy.cutAt("commit");
  await client.query("begin");
  await client.query("insert into t values (1)");
  await expect(client.query("commit")).rejects.toThrow();
  await cut;
  expect(await rows()).toEqual([{ id: 1 }]);
});

test("COMMIT itself is lost and nothing is committed", async () => {
  const client = await connected();
  void proxy.cutAt("commit", { forward: false });
  await client.query("begin");
  await client.query("insert into t values (2)");
  await expect(client.query("commit")).rejects.toThrow();
  await waitFor(async () => (await rows()).length === 1);
});

test("the second COMMIT is held and passed on late", async () => {
  const client = await connected();
  const holding = proxy.holdAt(/COMMIT\0/i, { nth: 2 });
  await client.query("begin");
  await client.query("insert into t values (10)");
  await client.query("commit");
  await client.query("begin");
  await client.query("insert into t values (11)");
  const late = client.query("commit");
  const held = await holding;
  expect(await rows()).toContainEqual({ id: 10 });
  expect(await rows()).not.toContainEqual({ id: 11 });
  held.release();
  await late;
  expect(await rows()).toContainEqual({ id: 11 });
  await client.end();
  await database.pool.query("delete from t where id >= 10");
});

test("a reply is held while what it answers is done", async () => {
  const client = await connected();
  const holding = proxy.holdAt("insert into t", { reply: true });
  const lost = client.query("insert into t values (12)");
  lost.catch(() => {});
  const held = await holding;
  expect(await rows()).toContainEqual({ id: 12 });
  held.drop();
  await expect(lost).rejects.toThrow();
  await database.pool.query("delete from t where id >= 10");
});

test("an end comes behind the bytes that are held", async () => {
  const server = createServer((socket) => socket.once("data", () => socket.end("last words")));
  await new Promise<void>((done) => server.listen(0, "127.0.0.1", done));
  const { port } = server.address() as AddressInfo;
  const toServer = await startTcpProxy({ target: port });
  const holding = toServer.holdAt("anything", { reply: true });
  const client = connect(toServer.port, "127.0.0.1");
  const words = text(client);
  client.write("anything");
  const held = await holding;
  server.close();
  await once(server, "close");
  held.release();
  expect(await words).toBe("last words");
  await toServer.close();
});

test("replies vanish while requests arrive, and pass again after healing", async () => {
  const client = await connected();
  proxy.dropReplies();
  const lost = client.query("insert into t values (3)");
  lost.catch(() => {});
  await waitFor(async () => (await rows()).length === 2);
  proxy.cutAll();
  await expect(lost).rejects.toThrow();
  proxy.heal();
  const other = await connected();
  expect((await other.query("select 1 as one")).rows).toEqual([{ one: 1 }]);
  await other.end();
});

test("refuses, then lets in again", async () => {
  proxy.refuse();
  await expect(connected()).rejects.toThrow();
  proxy.heal();
  const client = await connected();
  await client.end();
  await waitFor(() => proxy.open === 0);
});

test("random faults repeat with their seed", () => {
  const [a, b] = [seededRandom(42), seededRandom(42)];
  const drawn = Array.from({ length: 1_000 }, a);
  expect(Array.from({ length: 1_000 }, b)).toEqual(drawn);
  expect(drawn.filter((value) => value < 0.3).length).toBeGreaterThan(250);
  expect(drawn.filter((value) => value < 0.3).length).toBeLessThan(350);
});
