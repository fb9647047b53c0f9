/**
 * Checkouts that were really begun and then abandoned, all at once, by a process that was killed; their clients never come
 * back. Two servers finish all of them, and nothing is done twice.
 */
import { control, readLedger } from "../server/provider-bench.js";
import { get } from "../server/api.js";
import { waitFor } from "../support/wait-for.js";
import { openShop, path, sameEverAfter, type Shop } from "./checkout-bench.js";
import { newKey, post } from "./client.js";

const abandoned = 1_000;
/** Clients that are on their way to the provider at a time; later ones would wait for a connection to Postgres only. */
const begunAtATime = 100;
/** So that a busy machine does not take the process for dead while it begins them. */
const leaseMs = 3_000;
const articles = Array.from({ length: 10 }, (_, index) => `article-${index}`);
const inStock = 1_000;

let shop: Shop;
beforeAll(async () => {
  shop = await openShop({
    env: { ONCEKEY_LEASE_MS: String(leaseMs), ONCEKEY_STEP_TIMEOUT_MS: "120000" },
  });
});
afterAll(() => shop.end());

type Call = { key: string; body: object };

/** Begins checkouts on a server until each of them waits for the provider, one half before its charge and one half after. */
async function beginAll(url: string): Promise<Call[]> {
  const calls = Array.from({ length: abandoned }, (_, index): Call => {
    const items = [{ sku: articles[index % articles.length]!, quantity: 1 }];
    return { key: newKey(), body: { items, currency: "eur", source: "tok_visa" } };
  });
  await control(shop.provider.url, {
    faults: [
      { pause: true, at: "received", times: abandoned / 2 },
      { pause: true, at: "charged", times: abandoned / 2 },
    ],
  });
  for (let start = 0; start < abandoned; start += begunAtATime) {
    const part = calls.slice(start, start + begunAtATime);
    for (const call of part) post(url, path, call).catch(() => undefined);
    await waitFor(async () => (await control(shop.provider.url)).paused === start + part.length, {
      timeoutMs: 90_000,
      what: `${start + part.length} charges to wait at the provider`,
    });
  }
  return calls;
}

async function count(sql: string): Promise<number> {
  const { rows } = await shop.database.pool.query<{ count: number }>(
    `SELECT count(*)::int AS count FROM ${sql}`,
  );
  return rows[0]?.count ?? Number.NaN;
}

/** Of the server's own events: requests of steps routes that it has completed. */
async function completedBy(url: string): Promise<number> {
  const text = (await get(url, "/metrics", {})).bytes.toString();
  const [, value = "0"] =
    /^oncekey_events_total\{type="completed",detail="steps"\} (\d+)$/m.exec(text) ?? [];
  return Number(value);
}

test(`two servers finish ${abandoned} abandoned checkouts, each once`, async () => {
  const { pool } = shop.database;
  const starter = await shop.server({ ONCEKEY_WORKERS: "off" });
  await pool.query("INSERT INTO stock SELECT unnest($1::text[]), $2, 500", [articles, inStock]);
  const calls = await beginAll(starter.url);
  await starter.kill();
  // The provider goes on with what it has received, and tells nobody.
  await control(shop.provider.url, { resume: true });
  expect(await count("idempotency_keys WHERE state = 'running'")).toBe(abandoned);

  const servers = await Promise.all([shop.server(), shop.server()]);
  await waitFor(
    async () => (await count("idempotency_keys WHERE state = 'completed'")) === abandoned,
    {
      timeoutMs: 90_000,
      intervalMs: 100,
      what: "all to be completed",
    },
  );
  const [one, other] = await Promise.all(servers.map(({ url }) => completedBy(url)));
  expect([one! > 0, other! > 0, one! + other!]).toEqual([true, true, abandoned]);
  // Each was begun once and taken over once, and the provider was asked by nobody else.
  expect(await count("idempotency_keys WHERE attempt = 2 AND status = 201")).toBe(abandoned);
  expect((await control(shop.provider.url)).received).toBe(2 * abandoned);

  const ledger = await readLedger(shop.provider.url);
  const references = new Set(ledger.map(({ reference }) => reference));
  expect([ledger.length, references.size]).toEqual([abandoned, abandoned]);
  expect(await count("checkouts")).toBe(abandoned);
  expect(await count("checkouts WHERE status = 'paid'")).toBe(abandoned);
  const stock = await pool.query<{ available: number }>(
    "SELECT available FROM stock WHERE sku = ANY ($1)",
    [articles],
  );
  expect(new Set(stock.rows.map(({ available }) => available))).toEqual(
    new Set([inStock - abandoned / articles.length]),
  );
  expect(await count("(SELECT DISTINCT key FROM idempotency_outbox) AS keys")).toBe(abandoned);
  expect(await count("idempotency_outbox")).toBe(abandoned);

  for (const call of calls.slice(0, 20)) {
    const answer = await sameEverAfter(
      servers.map(({ url }) => url),
      call,
    );
    expect([answer.status, answer.headers["idempotent-replayed"]]).toEqual([201, "true"]);
  }
}, 300_000);
