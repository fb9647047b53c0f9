/**
 * A provider that ignores keys, so that a charge whose reply was lost must not be made again to find out. Nobody knows, it is
 * said so, nothing is charged twice, and an operator settles it.
 */
import { writeFileSync } from "node:fs";
import { join } from "node:path";

import { control, readLedger } from "../server/provider-bench.js";
import { temporaryDirectory } from "../support/processes.js";
import { type ServerProcess, startProgram } from "../support/server-process.js";
import { waitFor } from "../support/wait-for.js";
import {
  effectsOf,
  type Node,
  onceEach,
  onSale,
  openShop,
  path,
  sameEverAfter,
  type Shop,
  stateOf,
} from "./checkout-bench.js";
import { newKey, outcome, post, retry } from "./client.js";

let shop: Shop;
let other: ServerProcess;
beforeAll(async () => {
  shop = await openShop({ honoursKeys: false });
  other = await shop.server();
});
afterAll(() => shop.end());

/** `oncekey resolve`, as an operator runs it. */
async function resolve(...args: string[]): Promise<string> {
  const settling = startProgram("src/cli/main.ts", {
    args: ["resolve", ...args, "--by", "ada", "--why", "the provider's statement"],
    env: { DATABASE_URL: shop.database.url },
  });
  expect([await settling.exited(), settling.output()]).toEqual([0, expect.any(String)]);
  return settling.output();
}

/** Waits until the request was set aside, asks everybody again, and answers how many charges there are then. */
async function unknownEverAfter(call: { key: string; body: object }): Promise<number> {
  await waitFor(async () => {
    const { rows } = await shop.database.pool.query<{ next: Date | null }>(
      "SELECT next_attempt_at AS next FROM idempotency_keys WHERE key = $1 AND state = 'parked'",
      [call.key],
    );
    return rows[0]?.next === null;
  });
  for (let tries = 0; tries < 3; tries += 1)
    expect(outcome(await post(other.url, path, call))).toEqual([409, "outcome_unknown"]);
  return (await effectsOf(shop, call.key)).charges;
}

/** Sends a checkout whose charge is made, and whose reply is lost in one way or the other. */
async function loseReply(
  lose: (node: Node) => Promise<unknown>,
): Promise<{ key: string; body: object }> {
  const call = await onSale(shop, newKey());
  const node = await shop.node();
  const first = post(node.url, path, call).catch(() => undefined);
  await lose(node);
  await first;
  await node.end();
  return call;
}

const ways: [string, (node: Node) => Promise<unknown>][] = [
  ["its reply was cut off", (node) => node.provider.cutAt(/POST \/charges/)],
  [
    "the server died waiting for the reply",
    async (node) => {
      await node.provider.holdAt(/POST \/charges/, { reply: true });
      await node.server.kill();
    },
  ],
  [
    "the server died with the reply in its hands",
    async (node) => {
      await node.postgres.holdAt(/\0oncekey_steps-save\0[^]{0,400}charge[^]{0,40}done/);
      await node.server.kill();
    },
  ],
];

test.each(ways)("%s: one charge, and the operator completes it", async (_how, lose) => {
  const call = await loseReply(lose);
  expect(await unknownEverAfter(call)).toBe(1);
  const file = join(temporaryDirectory("reply"), "reply.json");
  writeFileSync(file, JSON.stringify({ status: 201, body: { settled: "by hand" } }));
  await resolve(call.key, "--completed", file);
  const answer = await sameEverAfter([other.url], call);
  expect([answer.status, answer.bytes.toString()]).toEqual([201, '{"settled":"by hand"}']);
  expect((await effectsOf(shop, call.key)).charges).toBe(1);
});

test("the call never reached the provider: the operator says so, and it goes on from there", async () => {
  const call = await loseReply(async (node) => {
    await node.provider.cutAt(/POST \/charges/, { forward: false });
  });
  expect(await unknownEverAfter(call)).toBe(0);
  await resolve(call.key, "--not-executed");
  // The completer goes on without a client.
  await waitFor(async () => (await stateOf(shop, call.key)) === "completed");
  expect((await sameEverAfter([other.url], call)).status).toBe(201);
  expect(await effectsOf(shop, call.key)).toEqual(onceEach);
});

test("a process that froze before its call makes it late: two processes and one charge", async () => {
  const call = await onSale(shop, newKey());
  const node = await shop.node();
  const first = post(node.url, path, call);
  // The intention is stored; its reply is on the way.
  const held = await node.postgres.holdAt(/\0oncekey_steps-save\0[^]{0,400}charge/, {
    reply: true,
  });
  node.server.freeze();
  expect(outcome(await retry(other.url, path, call))).toEqual([409, "outcome_unknown"]);
  node.server.thaw();
  held.release();
  expect((await first).status).toBe(409);
  expect((await effectsOf(shop, call.key)).charges).toBe(1);
  await node.end();
});

test("look-ups settle by themselves what was charged", async () => {
  const finder = await shop.server({ PROVIDER_LOOKUP: "true", ONCEKEY_WORKERS: "off" });
  await control(shop.provider.url, { faults: [{ at: "charged", cut: true }] });
  const call = await onSale(shop, newKey());
  const before = (await readLedger(shop.provider.url)).length;
  expect((await sameEverAfter([finder.url], call)).status).toBe(201);
  expect(await effectsOf(shop, call.key)).toEqual(onceEach);
  expect(await readLedger(shop.provider.url)).toHaveLength(before + 1);
});
