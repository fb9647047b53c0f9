/** A job that is killed at every point of a call, and started again: one payment, and the same answer. */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";

import { removeDirectory, temporaryDirectory } from "../support/processes.js";
import { startProgram } from "../support/server-process.js";
import { startTcpProxy, type TcpProxy } from "../support/tcp-proxy.js";
import { type Shop, startShop } from "./shop.js";

let shop: Shop;
let proxy: TcpProxy;
let folder: string;
let made = 0;

beforeAll(async () => {
  shop = await startShop();
});
beforeEach(async () => {
  proxy = await startTcpProxy({ target: shop.url });
  folder = temporaryDirectory("job");
  made = (await shop.payments()).length;
});
afterEach(async () => {
  await proxy.close();
  removeDirectory(folder);
});
afterAll(() => shop.close());

const start = (...pauseAt: string[]) =>
  startProgram("test/client/programs/job.ts", {
    args: [`http://127.0.0.1:${proxy.port}`, folder, ...pauseAt],
  });
const paid = async (): Promise<number> => (await shop.payments()).length - made;

async function restarted(): Promise<{ output: string; answer: string }> {
  const job = start();
  expect(await job.exited(20_000)).toBe(0);
  // The key is gone with the rest of the call, and a draft of one too.
  expect(readdirSync(folder)).toEqual(["answer"]);
  return { output: job.output(), answer: readFileSync(join(folder, "answer"), "utf8") };
}

test("killed before the request has arrived", async () => {
  const request = proxy.holdAt("POST /payments");
  const job = start();
  const held = await request;
  await job.kill();
  held.drop();
  expect(await paid()).toBe(0);
  expect((await restarted()).output).toBe("answered\nnoted\ndone\n");
  expect(await paid()).toBe(1);
});

test("killed while the reply is under way", async () => {
  const reply = proxy.holdAt("POST /payments", { reply: true });
  const job = start();
  await reply;
  await job.kill();
  expect(await paid()).toBe(1);
  const { output, answer } = await restarted();
  expect(output).toBe("answered\nnoted\ndone\n");
  expect(answer).toMatch(/^201 \{"id":\d+,"name":"invoice\/2026-01"\}$/);
  expect(await paid()).toBe(1);
});

test.each([
  ["answered", "answered\nnoted\ndone\n"],
  ["noted", "noted\ndone\n"],
])("killed when it has %s", async (point, output) => {
  const job = start(point);
  await job.waitForOutput(new RegExp(`^${point}$`, "m"));
  await job.kill();
  expect(await paid()).toBe(1);
  expect((await restarted()).output).toBe(output);
  expect(await paid()).toBe(1);
});
