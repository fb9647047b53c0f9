/** Checkouts: reserve, charge at the provider, mark paid, send a receipt; each once. */
import { type Provider, startProvider } from "../../src/server/provider.js";
import { startServer } from "../../src/server/start.js";
import { readConfig } from "../../src/server/config.js";
import { createIdempotency } from "../../src/index.js";
import { postgresStore } from "../../src/stores/postgres.js";
import { waitFor } from "../support/wait-for.js";
import {
  accountB,
  checkout,
  get,
  newKey,
  post,
  type RawResponse,
  send,
  accountA,
  useApi,
} from "./api.js";
import { chargesOf, control, newLedgerFile, readLedger } from "./provider-bench.js";

let provider: Provider;
beforeAll(async () => {
  provider = await startProvider({ ledgerFile: newLedgerFile() });
});
afterAll(() => provider.close());
afterEach(async () => {
  await control(provider.url, { honoursKeys: true, faults: [] });
});

const api = useApi();
type Running = Awaited<ReturnType<typeof startServer>>;

/** A server on the database of `api` that charges at the provider of this file. */
async function shop(env: Record<string, string> = {}): Promise<Running> {
  return api.another({ PROVIDER_URL: provider.url, ...env });
}

async function buy(
  url: string,
  key: string,
  change: object = {},
  path = "/v1/checkouts",
): Promise<RawResponse> {
  return post(url, path, { ...checkout, ...change }, { "Idempotency-Key": key });
}

async function stockOf(sku: string): Promise<number> {
  const { rows } = await api.pool.query<{ available: number }>(
    "SELECT available FROM stock WHERE sku = $1",
    [sku],
  );
  return rows[0]?.available ?? Number.NaN;
}

async function receiptsOf(id: string): Promise<number> {
  const { rowCount } = await api.pool.query(
    "SELECT FROM idempotency_outbox WHERE topic = 'receipt' AND payload ->> 'checkout' = $1",
    [id],
  );
  return rowCount ?? 0;
}

const idOf = (response: RawResponse): string => String(response.json()["id"]);

test("sells once, however often it is asked", async () => {
  const server = await shop();
  const key = newKey();
  const before = await stockOf("mug");
  const first = await buy(server.url, key, { customer: "ada" });
  expect([first.status, first.headers["location"]]).toEqual([201, `/v1/checkouts/${idOf(first)}`]);
  const [charge] = await chargesOf(provider.url, idOf(first));
  expect(first.json()).toEqual({
    id: expect.stringMatching(/^co_[0-9a-f]{24}$/) as string,
    object: "checkout",
    charge: charge?.id,
    created: expect.any(Number) as number,
    currency: "eur",
    customer: "ada",
    items: [{ sku: "mug", quantity: 2, unit_amount: 1250 }],
    livemode: false,
    status: "paid",
    total: 2500,
  });
  for (const again of [
    await buy(server.url, key, { customer: "ada" }),
    await buy(api.url, key, { customer: "ada" }),
  ]) {
    expect(again.bytes.equals(first.bytes)).toBe(true);
    expect(again.headers["idempotent-replayed"]).toBe("true");
  }
  expect(await chargesOf(provider.url, idOf(first))).toHaveLength(1);
  expect([before - (await stockOf("mug")), await receiptsOf(idOf(first))]).toEqual([2, 1]);
  const read = await get(server.url, String(first.headers["location"]));
  expect(read.json()).toEqual(first.json());
  const other = await get(server.url, String(first.headers["location"]), accountB);
  expect(other.status).toBe(404);
});

test("takes a form as well, and a request without a key", async () => {
  const server = await shop();
  const form = "items[0][sku]=shirt&items[0][quantity]=1&currency=EUR&source=tok_visa";
  const response = await send(server.url, "/v1/checkouts", {
    headers: [
      ...Object.entries(accountA),
      ["Content-Type", "application/x-www-form-urlencoded"],
      ["Content-Length", String(form.length)],
    ],
    body: form,
  });
  expect([response.status, response.json()["total"]]).toEqual([201, 2500]);
  expect(response.headers["idempotency-key"]).toBeUndefined();
});

test("gives the items back when the card is declined, and never sells under that key", async () => {
  const server = await shop();
  const key = newKey();
  const before = await stockOf("poster");
  const declined = {
    items: [
      { sku: "poster", quantity: 1 },
      { sku: "poster", quantity: 2 },
    ],
    source: "tok_chargeDeclined",
  };
  const first = await buy(server.url, key, declined);
  expect([first.status, first.json()["code"]]).toEqual([402, "card_declined"]);
  const again = await buy(server.url, key, declined);
  expect(again.bytes.equals(first.bytes)).toBe(true);
  expect(again.headers["idempotent-replayed"]).toBe("true");
  expect(await stockOf("poster")).toBe(before);
  const { rows } = await api.pool.query(
    "SELECT status, charge FROM checkouts WHERE idempotency_key = $1",
    [key],
  );
  expect(rows).toEqual([{ status: "declined", charge: null }]);
});

test.each([
  ["nothing is left", [{ sku: "unicorn", quantity: 1 }]],
  ["nobody sells it", [{ sku: "nothing", quantity: 1 }]],
  [
    "two items together are too much",
    [
      { sku: "mug", quantity: 1 },
      { sku: "rare", quantity: 2 },
      { sku: "rare", quantity: 2 },
    ],
  ],
])("refuses for good when %s", async (_why, items) => {
  await api.pool.query(
    "INSERT INTO stock VALUES ('rare', 3, 100) ON CONFLICT (sku) DO UPDATE SET available = 3",
  );
  const server = await shop();
  const key = newKey();
  const [mugs, lines] = [await stockOf("mug"), (await readLedger(provider.url)).length];
  const first = await buy(server.url, key, { items });
  expect([first.status, first.json()["code"]]).toEqual([409, "out_of_stock"]);
  await api.pool.query("UPDATE stock SET available = 1000 WHERE sku = 'rare'");
  const again = await buy(server.url, key, { items });
  expect(again.bytes.equals(first.bytes)).toBe(true);
  expect([await stockOf("mug"), (await readLedger(provider.url)).length]).toEqual([mugs, lines]);
});

test("the last one is sold once to many who ask at a time", async () => {
  await api.pool.query(
    "INSERT INTO stock VALUES ('last', 1, 100) ON CONFLICT (sku) DO UPDATE SET available = 1",
  );
  const server = await shop();
  const answers = await Promise.all(
    Array.from({ length: 10 }, () =>
      buy(server.url, newKey(), { items: [{ sku: "last", quantity: 1 }] }),
    ),
  );
  const sold = answers.filter(({ status }) => status === 201);
  const refused = answers.filter(({ status }) => status === 409);
  expect([sold.length, refused.length]).toEqual([1, 9]);
  expect(await stockOf("last")).toBe(0);
});

test("speaks the Stripe dialect", async () => {
  const server = await shop({ ONCEKEY_DIALECT: "stripe" });
  expect((await buy(server.url, newKey())).status).toBe(200);
  const declined = await buy(server.url, newKey(), { source: "tok_chargeDeclined" });
  expect([declined.status, declined.headers["stripe-should-retry"]]).toEqual([402, "false"]);
  expect(declined.json()["error"]).toMatchObject({
    type: "card_error",
    code: "card_declined",
    decline_code: "generic_decline",
  });
});

describe("a provider that honours keys charges once", () => {
  test.each([
    ["and loses its reply", { at: "charged", cut: true }],
    ["and fails after the charge", { at: "charged", status: 500 }],
    ["and fails before the charge", { at: "received", status: 503, times: 2 }],
    ["and is slow", { delayMs: 300 }],
  ] as const)("%s", async (_how, fault) => {
    const server = await shop();
    await control(provider.url, { faults: [fault] });
    const made = await buy(server.url, newKey());
    expect(made.status).toBe(201);
    expect(await chargesOf(provider.url, idOf(made))).toHaveLength(1);
  });

  test("and is away for longer than one attempt", async () => {
    const server = await shop({ ONCEKEY_WORKERS: "off" });
    const key = newKey();
    await control(provider.url, { faults: [{ status: 503, times: 3 }] });
    const failed = await buy(server.url, key);
    expect([failed.status, failed.json()["code"]]).toEqual([503, "attempt_failed"]);
    const made = await buy(server.url, key);
    expect(made.status).toBe(201);
    expect(await chargesOf(provider.url, idOf(made))).toHaveLength(1);
  });
});

describe("a provider that ignores keys", () => {
  const ignoring = { PROVIDER_HONOURS_KEYS: "false" };

  test("charges once where everything goes well", async () => {
    await control(provider.url, { honoursKeys: false });
    const server = await shop(ignoring);
    const key = newKey();
    const made = await buy(server.url, key);
    const again = await buy(server.url, key);
    expect([made.status, again.bytes.equals(made.bytes)]).toEqual([201, true]);
    expect(await chargesOf(provider.url, idOf(made))).toHaveLength(1);
  });

  test("and loses its reply leaves an unknown outcome, which an operator settles", async () => {
    await control(provider.url, { honoursKeys: false, faults: [{ at: "charged", cut: true }] });
    const server = await shop({ ...ignoring, ONCEKEY_LEASE_MS: "300" });
    const key = newKey();
    const lines = (await readLedger(provider.url)).length;
    for (let tries = 0; tries < 3; tries += 1) {
      const unknown = await buy(server.url, key);
      expect([unknown.status, unknown.json()["code"]]).toEqual([409, "outcome_unknown"]);
    }
    // The completer leaves it alone, past the lease and past every pause.
    const later = await shop({ ...ignoring, ONCEKEY_LEASE_MS: "300" });
    await waitFor(async () => (await buy(later.url, newKey())).status === 201);
    expect(await readLedger(provider.url)).toHaveLength(lines + 2);

    const idempotent = createIdempotency({
      store: postgresStore({ pool: api.pool }),
      scope: "global",
      workers: false,
    });
    const found = await idempotent.find({ scope: "acct_a/test", key });
    const response = { status: 201, headers: [], body: Buffer.from('{"settled":true}') };
    const settled = await idempotent.operations?.resolveCompleted(
      found!.record,
      response,
      { replayWindowMs: 3_600_000, dedupeWindowMs: 3_600_000 },
      { by: "ada", why: "the provider's statement shows the charge" },
    );
    await idempotent.close();
    expect(settled).toBe("ok");
    const answer = await buy(server.url, key);
    expect([answer.status, answer.json()]).toEqual([201, { settled: true }]);
    expect(await readLedger(provider.url)).toHaveLength(lines + 2);
  });

  test("and offers look-ups is asked what became of the charge", async () => {
    await control(provider.url, { honoursKeys: false, faults: [{ at: "charged", cut: true }] });
    const server = await shop({ ...ignoring, PROVIDER_LOOKUP: "true" });
    const made = await buy(server.url, newKey());
    expect(made.status).toBe(201);
    const charges = await chargesOf(provider.url, idOf(made));
    expect(charges.map(({ id }) => id)).toEqual([made.json()["charge"]]);
  });

  test("and knows of no charge proves nothing by that", async () => {
    await control(provider.url, { honoursKeys: false, faults: [{ status: 500 }] });
    const server = await shop({ ...ignoring, PROVIDER_LOOKUP: "true" });
    const unknown = await buy(server.url, newKey());
    expect([unknown.status, unknown.json()["code"]]).toEqual([409, "outcome_unknown"]);
  });
});

test("the built-in provider keeps its books where the server keeps its data", async () => {
  const ledgerFile = newLedgerFile();
  const config = readConfig({
    PORT: "0",
    HOST: "127.0.0.1",
    DATABASE_URL: api.databaseUrl,
    ONCEKEY_DATA_DIR: ledgerFile,
    ONCEKEY_API_KEYS: "sk_test_a=acct_a",
    LOG_LEVEL: "silent",
  });
  const server = await startServer(config, { say: () => {} });
  const made = await buy(server.url, newKey());
  expect(made.status).toBe(201);
  await server.close();
  const reopened = await startProvider({ ledgerFile: `${ledgerFile}/provider-ledger.jsonl` });
  expect(await chargesOf(reopened.url, idOf(made))).toHaveLength(1);
  await reopened.close();
});
