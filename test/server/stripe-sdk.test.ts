/** The official Stripe SDK against the Stripe dialect, over a network that loses requests and replies. */
import Stripe from "stripe";

import { seededRandom, startTcpProxy, type TcpProxy } from "../support/tcp-proxy.js";
import { newKey, useApi } from "./api.js";

const api = useApi({ ONCEKEY_DIALECT: "stripe" });
const charges = 100;
let proxy: TcpProxy;

beforeAll(async () => {
  const faults = { random: seededRandom(1042), dropReply: 0.3, cutRequest: 0.15 };
  proxy = await startTcpProxy({ target: api.url, faults });
});
afterAll(() => proxy.close());

function clientOf(port: number, key = "sk_test_a"): Stripe {
  const stripe = new Stripe(key, {
    host: "127.0.0.1",
    port,
    protocol: "http",
    maxNetworkRetries: 15,
    telemetry: false,
  });
  // The SDK begins at half a second and has no option for it; its own retries are what is tested, and not its patience.
  jest
    .spyOn(
      stripe as unknown as { getInitialNetworkRetryDelay: () => number },
      "getInitialNetworkRetryDelay",
    )
    .mockReturnValue(0.02);
  jest
    .spyOn(
      stripe as unknown as { getMaxNetworkRetryDelay: () => number },
      "getMaxNetworkRetryDelay",
    )
    .mockReturnValue(0.2);
  return stripe;
}

test("a hundred charges through a network that loses almost every second message are a hundred charges", async () => {
  const stripe = clientOf(proxy.port);
  const made = await Promise.all(
    Array.from({ length: charges }, (_, index) =>
      stripe.charges.create({
        amount: 1000 + index,
        currency: "eur",
        source: "tok_visa",
        description: `order ${index}`,
        metadata: { order: String(index) },
      }),
    ),
  );
  // The network was as bad as intended, or the rest proves nothing.
  expect(proxy.droppedReplies).toBeGreaterThan(charges * 0.3);
  expect(proxy.cutRequests).toBeGreaterThan(charges * 0.1);
  made.forEach((charge, index) => {
    expect(charge).toMatchObject({
      object: "charge",
      amount: 1000 + index,
      status: "succeeded",
      metadata: { order: String(index) },
    });
  });
  expect(new Set(made.map(({ id }) => id)).size).toBe(charges);
  expect(await api.countCharges()).toBe(charges);
  const { rows } = await api.pool.query<{ id: string; amount: number }>(
    "select id, amount from charges order by amount",
  );
  expect(rows).toEqual(made.map(({ id, amount }) => ({ id, amount })));

  // Reads carry no key and are retried by the same SDK; the list turns its own pages.
  const listed: string[] = [];
  for await (const charge of stripe.charges.list({ limit: 7 })) listed.push(charge.id);
  const newestFirst = await api.pool.query<{ id: string }>(
    "select id from charges order by position desc",
  );
  expect(listed).toEqual(newestFirst.rows.map(({ id }) => id));
});

describe("without faults", () => {
  const charge = { amount: 2000, currency: "eur", source: "tok_visa" };
  const direct = (key?: string): Stripe => clientOf(Number(new URL(api.url).port), key);

  test("a key gets the same charge again", async () => {
    const idempotencyKey = newKey();
    const first = await direct().charges.create(charge, { idempotencyKey });
    const second = await direct().charges.create(charge, { idempotencyKey });
    expect(second).toEqual(first);
    expect(second.lastResponse).toMatchObject({ statusCode: 200, idempotencyKey });
    expect(second.lastResponse.headers["idempotent-replayed"]).toBe("true");
    expect(await api.countCharges(idempotencyKey)).toBe(1);
    expect(await direct().charges.retrieve(first.id)).toEqual(first);
  });

  test("a reused key raises StripeIdempotencyError", async () => {
    const idempotencyKey = newKey();
    await direct().charges.create(charge, { idempotencyKey });
    const changed = direct().charges.create({ ...charge, amount: 2001 }, { idempotencyKey });
    await expect(changed).rejects.toBeInstanceOf(Stripe.errors.StripeIdempotencyError);
    expect(await api.countCharges(idempotencyKey)).toBe(1);
  });

  test("a wrong API key raises StripeAuthenticationError", async () => {
    const refused = direct("sk_test_nobody").charges.create(charge);
    await expect(refused).rejects.toBeInstanceOf(Stripe.errors.StripeAuthenticationError);
    await expect(direct("sk_test_nobody").charges.list()).rejects.toThrow(
      "Invalid API Key provided: sk_test_…",
    );
  });

  test("a wrong field raises StripeInvalidRequestError with its name", async () => {
    const refused = direct().charges.create({ ...charge, amount: 0 });
    await expect(refused).rejects.toMatchObject({
      type: "StripeInvalidRequestError",
      param: "amount",
      statusCode: 400,
    });
  });

  test("a declined card raises StripeCardError, each time", async () => {
    const idempotencyKey = newKey();
    for (let attempt = 0; attempt < 2; attempt += 1) {
      const declined = direct().charges.create(
        { ...charge, source: "tok_chargeDeclined" },
        { idempotencyKey },
      );
      await expect(declined).rejects.toMatchObject({
        type: "StripeCardError",
        code: "card_declined",
        decline_code: "generic_decline",
      });
    }
    expect(await api.countCharges(idempotencyKey)).toBe(0);
  });

  test("a key in use is waited for by the SDK's own retries", async () => {
    const idempotencyKey = newKey();
    const slow = { ...charge, source: "tok_slow_300" };
    const [first, second] = await Promise.all([
      direct().charges.create(slow, { idempotencyKey }),
      direct().charges.create(slow, { idempotencyKey }),
    ]);
    expect(second).toEqual(first);
    expect(await api.countCharges(idempotencyKey)).toBe(1);
  });
});
