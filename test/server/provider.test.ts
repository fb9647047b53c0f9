/** The payment provider, apart from the API: its books, its keys, and misbehaving as it is told. */
import { appendFileSync, readFileSync } from "node:fs";

import { type Provider, startProvider } from "../../src/server/provider.js";
import { waitFor } from "../support/wait-for.js";
import {
  chargesOf,
  control,
  type Fault,
  newLedgerFile,
  readLedger,
  startProviderProcess,
} from "./provider-bench.js";

const open: Provider[] = [];
afterEach(async () => {
  for (const started of open.splice(0)) await started.close();
});

async function provider(file = newLedgerFile(), honoursKeys = true): Promise<string> {
  const started = await startProvider({ ledgerFile: file, honoursKeys });
  open.push(started);
  return started.url;
}

async function charge(
  url: string,
  key: string | undefined,
  change: object = {},
): Promise<{ status: number; body: Record<string, unknown> }> {
  const response = await fetch(`${url}/charges`, {
    method: "POST",
    headers: {
      "Content-Type": "application/json",
      ...(key === undefined ? {} : { "Idempotency-Key": key }),
    },
    body: JSON.stringify({
      amount: 100,
      currency: "eur",
      source: "tok_visa",
      reference: "co_1",
      ...change,
    }),
  });
  return {
    status: response.status,
    body: (await response.json()) as Record<string, unknown>,
  };
}

test("a key charges once, also for another request, and a request without one always", async () => {
  const url = await provider();
  const first = await charge(url, "k1");
  expect(first).toEqual({ status: 200, body: expect.objectContaining({ status: "succeeded" }) });
  expect(await charge(url, "k1")).toEqual(first);
  expect((await charge(url, "k1", { amount: 101 })).status).toBe(422);
  await charge(url, undefined);
  await charge(url, undefined);
  expect((await readLedger(url)).map(({ key }) => key)).toEqual(["k1", null, null]);
});

test("a provider that ignores keys charges every time, and finds all of it", async () => {
  const url = await provider(newLedgerFile(), false);
  await charge(url, "k1");
  await charge(url, "k1");
  const found = (await (await fetch(`${url}/charges?key=k1`)).json()) as { data: unknown[] };
  expect(found.data).toHaveLength(2);
});

test("declines, and goes on declining", async () => {
  const url = await provider();
  const source = { source: "tok_chargeDeclined" };
  const first = await charge(url, "k1", source);
  expect(first).toMatchObject({ status: 402, body: { status: "declined" } });
  expect(await charge(url, "k1", source)).toEqual(first);
  expect(await chargesOf(url, "co_1")).toEqual([]);
});

test("refuses what is no charge", async () => {
  const url = await provider();
  expect((await charge(url, "k1", { amount: 0 })).status).toBe(400);
  expect((await fetch(`${url}/charges`)).status).toBe(400);
  await expect(control(url, { faults: [{ wrong: 1 } as Fault] })).rejects.toThrow("400");
});

test("does as it is told, so many times and no more", async () => {
  const url = await provider();
  const say = (fault: Fault): Promise<unknown> => control(url, { faults: [fault] });
  await say({ status: 500, times: 2 });
  expect([(await charge(url, "a")).status, (await charge(url, "a")).status]).toEqual([500, 500]);
  expect(await readLedger(url)).toEqual([]);
  expect((await charge(url, "a")).status).toBe(200);

  await say({ at: "charged", status: 503 });
  expect((await charge(url, "b")).status).toBe(503);
  await say({ at: "charged", cut: true, match: "co_2" });
  expect((await charge(url, "c")).status).toBe(200);
  await expect(charge(url, "d", { reference: "co_2" })).rejects.toThrow("fetch failed");
  expect((await readLedger(url)).map(({ key }) => key)).toEqual(["a", "b", "c", "d"]);
  expect((await charge(url, "d", { reference: "co_2" })).status).toBe(200);
  expect(await chargesOf(url, "co_2")).toHaveLength(1);
});

test("pauses until it is told to go on, and takes no second request of that key meanwhile", async () => {
  const url = await provider();
  await control(url, { faults: [{ pause: true }] });
  const first = charge(url, "k1");
  await waitFor(async () => (await control(url)).paused === 1);
  expect((await charge(url, "k1")).status).toBe(409);
  expect((await charge(url, "k2")).status).toBe(200);
  await control(url, { resume: true });
  expect((await first).status).toBe(200);
  expect(await readLedger(url)).toHaveLength(2);
});

test("kill -9 loses nothing that was answered, and half a line is no charge", async () => {
  const first = await startProviderProcess();
  const made = await charge(first.url, "k1");
  await first.kill();
  appendFileSync(first.file, '{"id":"pc_half","status":"succ');
  const second = await startProviderProcess({ file: first.file });
  expect(await charge(second.url, "k1")).toEqual(made);
  expect((await charge(second.url, "k2")).status).toBe(200);
  expect((await readLedger(second.url)).map(({ key }) => key)).toEqual(["k1", "k2"]);
  await second.kill();
});

test("two providers on one file agree on the first charge of a key", async () => {
  const file = newLedgerFile();
  const urls = [await provider(file), await provider(file)];
  const made = await Promise.all(
    Array.from({ length: 20 }, (_, index) =>
      Promise.all(urls.map(async (url) => (await charge(url, `k${index}`)).body["id"])),
    ),
  );
  for (const [one, other] of made) expect(one).toBe(other);
  for (const url of urls) expect(await readLedger(url)).toHaveLength(20);
  expect(readFileSync(file, "utf8")).toContain('"k19"');
});
