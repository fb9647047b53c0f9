/** The client in a real page: of another origin than the API, reloaded, in two tabs, and in a browser that is killed. */
import type { Page } from "playwright-core";

import { type RunningChromium, startChromium } from "../support/chromium.js";
import { describeWithChromium } from "../support/find-chromium.js";
import { temporaryDirectory } from "../support/processes.js";
import { startTcpProxy, type TcpProxy } from "../support/tcp-proxy.js";
import { calls, lossyProxy, names } from "./lossy.js";
import { type Shop, startShop } from "./shop.js";

jest.setTimeout(60_000);

type Answer = { status: number; replayed: string | null; body: { id: number; name: string } };

/** Defines `pay` in the page, which makes payments by the API at `url`; jest's own compiler would spoil a function. */
const payment = (url: string, keys = "undefined"): string => `
  globalThis.keys = ${keys};
  const send = createClient({ keys: globalThis.keys, retries: 30, firstDelayMs: 5, maxDelayMs: 2_000 });
  globalThis.pay = async (name, identity = {}) => {
    const response = await send("${url}/payments", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ name }),
      ...identity,
    });
    const replayed = response.headers.get("idempotent-replayed");
    return { status: response.status, replayed, body: await response.json() };
  };
  undefined`;

describeWithChromium("in Chromium", () => {
  let shop: Shop;
  let chromium: RunningChromium;
  let profile: string;
  const proxies: TcpProxy[] = [];

  beforeAll(async () => {
    shop = await startShop();
    profile = temporaryDirectory("chromium");
    chromium = await startChromium(profile);
  });
  afterAll(async () => {
    await chromium?.kill();
    for (const proxy of proxies) await proxy.close();
    await shop.close();
  });

  async function proxied(started: Promise<TcpProxy>): Promise<{ proxy: TcpProxy; url: string }> {
    const proxy = await started;
    proxies.push(proxy);
    return { proxy, url: `http://127.0.0.1:${proxy.port}` };
  }
  async function open(): Promise<Page> {
    const page = await chromium.context.newPage();
    await page.goto(shop.url);
    await page.waitForFunction("globalThis.loaded");
    return page;
  }
  const paid = async (name: string): Promise<number> =>
    (await shop.payments()).filter((payment_) => payment_ === name).length;

  test("200 calls through a proxy that loses replies are 200 effects", async () => {
    const { proxy, url } = await proxied(lossyProxy(shop.url, 11));
    const page = await open();
    await page.evaluate(payment(url));
    const answers = await page.evaluate<Answer[]>(
      `Promise.all(${JSON.stringify(names)}.map((name) => pay(name)))`,
    );
    // Preflights are lost too, so these are no exact figures.
    expect(proxy.droppedReplies).toBeGreaterThan(calls * 0.3);
    expect(proxy.cutRequests).toBeGreaterThan(calls * 0.08);
    expect(answers.map(({ status, body }) => [status, body.name])).toEqual(
      names.map((name) => [201, name]),
    );
    expect(new Set(answers.map(({ body }) => body.id)).size).toBe(calls);
    expect(await shop.payments()).toEqual(names);
    await page.close();
  });

  test.each([
    ["localStorage", "webStorageKeys(localStorage)"],
    ["sessionStorage", "webStorageKeys(sessionStorage)"],
    ["IndexedDB", "indexedDbKeys()"],
  ])("a page reloaded in the middle of a call goes on with its key in %s", async (where, keys) => {
    const name = `reloaded with ${where}`;
    const { proxy, url } = await proxied(startTcpProxy({ target: shop.url }));
    const page = await open();
    await page.evaluate(payment(url, keys));
    const reply = proxy.holdAt(/POST \/payments/, { reply: true });
    await page.evaluate(`void pay("${name}", { call: "${name}" })`);
    const held = await reply;
    expect(await paid(name)).toBe(1);

    await page.reload();
    held.drop();
    await page.waitForFunction("globalThis.loaded");
    await page.evaluate(payment(url, keys));
    // More than once: the second call that finds a key must not have replaced it for the third.
    for (let count = 0; count < 2; count += 1) {
      const again = await page.evaluate<Answer>(`pay("${name}", { call: "${name}" })`);
      expect([again.status, again.replayed, again.body.name]).toEqual([201, "true", name]);
    }
    expect(await paid(name)).toBe(1);

    await page.evaluate(`keys.forget("${name}")`);
    const other = await page.evaluate<Answer>(`pay("${name}", { call: "${name}" })`);
    expect([other.status, other.replayed]).toEqual([201, null]);
    expect(await paid(name)).toBe(2);
    await page.close();
  });

  test("two tabs that make the same calls at the same moment make each once", async () => {
    const [first, second] = [await open(), await open()];
    const carts = Array.from({ length: 50 }, (_, index) => `cart ${index}`);
    for (const page of [first, second]) await page.evaluate(payment("", "indexedDbKeys()"));
    const payAll = `Promise.all(${JSON.stringify(carts)}.map((cart) => pay(cart, { call: cart })))`;
    const [one, two] = await Promise.all([
      first.evaluate<Answer[]>(payAll),
      second.evaluate<Answer[]>(payAll),
    ]);
    expect(one.map(({ body }) => body)).toEqual(two.map(({ body }) => body));
    expect((await shop.payments()).filter((name) => name.startsWith("cart")).length).toBe(50);
    await first.close();
    await second.close();
  });

  test("a browser that is killed while a call is under way goes on with its key in IndexedDB", async () => {
    const name = "killed";
    const { proxy, url } = await proxied(startTcpProxy({ target: shop.url }));
    const keys = "indexedDbKeys()";
    const page = await open();
    await page.evaluate(payment(url, keys));
    const reply = proxy.holdAt(/POST \/payments/, { reply: true });
    await page.evaluate(`void pay("${name}", { call: "${name}" })`);
    await reply;
    await chromium.kill();

    chromium = await startChromium(profile);
    const later = await open();
    await later.evaluate(payment(url, keys));
    const again = await later.evaluate<Answer>(`pay("${name}", { call: "${name}" })`);
    expect([again.status, again.replayed]).toEqual([201, "true"]);
    expect(await paid(name)).toBe(1);
  });
});
