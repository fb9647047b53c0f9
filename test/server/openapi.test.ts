/** Holds openapi.yaml against the routes of the app and against what it really answers. */
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";

import express from "express";
import { pino } from "pino";

import { type ErrorCode, errorTable, IdempotencyError } from "../../src/core/errors.js";
import { renderError } from "../../src/http/problem.js";
import { createApp } from "../../src/server/app.js";
import { chargeShape } from "../../src/server/charge-request.js";
import { checkoutShape } from "../../src/server/checkout-request.js";
import { orderShape } from "../../src/server/order-request.js";
import { createProviderClient } from "../../src/server/provider-client.js";
import { merchantShape, recomputeShape } from "../../src/server/revenue.js";
import { ApiError, type ApiErrorCode, apiErrorTable, sendErrors } from "../../src/server/wire.js";
import { postgresStore } from "../../src/stores/postgres.js";
import { startTcpProxy } from "../support/tcp-proxy.js";
import { charge, checkout, get, newKey, order, post, type RawResponse, useApi } from "./api.js";
import {
  createRound,
  document,
  faultsOf,
  fits,
  operations,
  takesBody,
} from "./openapi-document.js";
import { waitFor } from "../support/wait-for.js";

const api = useApi();
const stripe = useApi({ ONCEKEY_DIALECT: "stripe" });

test("every route is documented, and every documented route is there", async () => {
  const built = createApp({
    accounts: new Map(),
    dialect: "ietf",
    pool: api.pool,
    probes: api.pool,
    store: postgresStore({ pool: api.pool }),
    logger: pino({ level: "silent" }),
    payment: {
      provider: createProviderClient("http://127.0.0.1:1"),
      honoursKeys: true,
      offersLookup: false,
    },
    workers: false,
  });
  const { stack } = built.app.router as unknown as {
    stack: { route?: { path: string; methods: Record<string, boolean> } }[];
  };
  const routes = stack.flatMap(({ route }) =>
    route === undefined
      ? []
      : Object.keys(route.methods)
          // `all` answers 405 to the rest, which the document says of every path.
          .filter((method) => method !== "_all")
          .map((method) => `${method.toUpperCase()} ${route.path.replaceAll(/:(\w+)/g, "{$1}")}`),
  );
  await built.close();
  expect(routes.sort()).toEqual(operations().sort());
});

test("the codes of problems are those of the library and of the server", () => {
  const codes = [...Object.keys(errorTable), ...Object.keys(apiErrorTable)];
  expect([...document.components.schemas.Problem.properties.code.enum].sort()).toEqual(
    codes.sort(),
  );
});

const shapes = {
  "POST /v1/charges": chargeShape,
  "POST /v1/orders": orderShape,
  "POST /v1/checkouts": checkoutShape,
  "POST /v1/revenue/recompute": recomputeShape,
  "PUT /v1/merchants/{merchant_id}": merchantShape,
};

describe("takes the bodies that the document says, and no others:", () => {
  const item = order.items[0];
  test.each<[keyof typeof shapes, unknown]>([
    ["POST /v1/charges", charge],
    ["POST /v1/charges", { ...charge, description: "d", metadata: { a: "b" } }],
    ["POST /v1/charges", { ...charge, amount: 99_999_999, currency: "EUR" }],
    ["POST /v1/charges", { ...charge, amount: 100_000_000 }],
    ["POST /v1/charges", { ...charge, amount: 0 }],
    ["POST /v1/charges", { ...charge, amount: 0.5 }],
    ["POST /v1/charges", { ...charge, currency: "eu1" }],
    ["POST /v1/charges", { ...charge, source: "" }],
    ["POST /v1/charges", { ...charge, source: "s".repeat(256) }],
    ["POST /v1/charges", { ...charge, description: "d".repeat(1_001) }],
    ["POST /v1/charges", { ...charge, metadata: { ["k".repeat(40)]: "v".repeat(500) } }],
    ["POST /v1/charges", { ...charge, metadata: { ["k".repeat(41)]: "v" } }],
    ["POST /v1/charges", { ...charge, metadata: { k: "v".repeat(501) } }],
    ["POST /v1/charges", { ...charge, metadata: { k: 1 } }],
    ["POST /v1/charges", { ...charge, extra: 1 }],
    ["POST /v1/charges", { amount: 1, currency: "eur" }],
    ["POST /v1/orders", order],
    ["POST /v1/orders", { ...order, customer: "c" }],
    ["POST /v1/orders", { ...order, items: [] }],
    ["POST /v1/orders", { ...order, items: Array.from({ length: 101 }, () => item) }],
    ["POST /v1/orders", { ...order, items: [{ ...item, quantity: 10_001 }] }],
    ["POST /v1/orders", { ...order, items: [{ ...item, unit_amount: 0 }] }],
    ["POST /v1/orders", { ...order, items: [{ ...item, unit_amount: -1 }] }],
    ["POST /v1/orders", { ...order, items: [{ ...item, sku: "s".repeat(101) }] }],
    ["POST /v1/orders", { ...order, items: [{ ...item, colour: "red" }] }],
    ["POST /v1/checkouts", checkout],
    ["POST /v1/checkouts", { ...checkout, customer: "c" }],
    ["POST /v1/checkouts", { ...checkout, items: [] }],
    ["POST /v1/checkouts", { ...checkout, items: [item] }],
    ["POST /v1/checkouts", { ...checkout, items: [{ sku: "mug", quantity: 0 }] }],
    ["POST /v1/checkouts", { ...checkout, items: [{ sku: "mug", quantity: 10_001 }] }],
    ["POST /v1/checkouts", { ...checkout, source: undefined }],
    ["POST /v1/checkouts", { ...checkout, total: 1 }],
    ["POST /v1/revenue/recompute", { from: "2026-01-01", to: "2026-01-31" }],
    ["POST /v1/revenue/recompute", { from: "2026-01-01", to: "2026-01-31", merchant_id: "m" }],
    ["POST /v1/revenue/recompute", { from: "2026-01-01", to: "2026-01-31", merchant_id: "" }],
    ["POST /v1/revenue/recompute", { from: "2026-02-30", to: "2026-03-31" }],
    ["POST /v1/revenue/recompute", { from: "2026-01-01" }],
    ["PUT /v1/merchants/{merchant_id}", { time_zone: "UTC" }],
    ["PUT /v1/merchants/{merchant_id}", { time_zone: "" }],
    ["PUT /v1/merchants/{merchant_id}", { time_zone: "UTC", zone: "UTC" }],
  ])("%s %j", (name, body) => {
    const sent: unknown = JSON.parse(JSON.stringify(body));
    expect(takesBody(name, sent)).toBe(shapes[name].safeParse(sent).success);
  });
});

/** The answer's status and code, and what of it is not as documented. */
async function judged(
  name: string,
  asked: Promise<RawResponse>,
): Promise<{ status: number; code: unknown; faults: string[] }> {
  const response = await asked;
  return {
    status: response.status,
    code: response.json()["code"],
    faults: faultsOf(name, response),
  };
}

test.each([
  ["problem documents", api, 201, 422],
  ["the Stripe dialect", stripe, 200, 400],
] as const)("answers as documented, in %s", async (_name, { url }, made, reused) => {
  const { faults, ask } = createRound();
  const charges = "POST /v1/charges";
  const key = { "Idempotency-Key": newKey() };
  const first = await ask(charges, made, post(url, "/v1/charges", charge, key));
  await ask(charges, made, post(url, "/v1/charges", charge, key));
  await ask(charges, made, post(url, "/v1/charges", charge));
  await ask(charges, reused, post(url, "/v1/charges", { ...charge, amount: 1 }, key));
  await ask(charges, 400, post(url, "/v1/charges", {}));
  await ask(charges, 400, post(url, "/v1/charges", charge, { "Idempotency-Key": '"' }));
  await ask(charges, 400, post(url, "/v1/charges", "{"));
  await ask(charges, 401, post(url, "/v1/charges", charge, { Authorization: "x" }));
  const declined = { ...charge, source: "tok_chargeDeclined" };
  await ask(charges, 402, post(url, "/v1/charges", declined));
  const other = { "Idempotency-Key": newKey() };
  await ask(charges, 402, post(url, "/v1/charges", declined, other));
  await ask(charges, 402, post(url, "/v1/charges", declined, other));
  await ask(charges, 413, post(url, "/v1/charges", "x".repeat(200_000)));
  await ask(charges, 415, post(url, "/v1/charges", "x", { "Content-Type": "a/b" }));
  await ask("GET /v1/charges", 200, get(url, "/v1/charges"));
  await ask("GET /v1/charges", 400, get(url, "/v1/charges?limit=0"));
  await ask("GET /v1/charges", 401, get(url, "/v1/charges", {}));
  const { location } = first.headers;
  await ask("GET /v1/charges/{id}", 200, get(url, String(location)));
  await ask("GET /v1/charges/{id}", 404, get(url, "/v1/charges/ch_0"));
  await ask("GET /v1/charges/{id}", 401, get(url, "/v1/charges/ch_0", {}));

  const orders = "POST /v1/orders";
  const orderKey = { "Idempotency-Key": newKey() };
  const placed = await ask(orders, made, post(url, "/v1/orders", order, orderKey));
  await ask(orders, made, post(url, "/v1/orders", order, orderKey));
  await ask(orders, 400, post(url, "/v1/orders", order));
  await ask(orders, 400, post(url, "/v1/orders", {}));
  await ask(orders, 401, post(url, "/v1/orders", order, { Authorization: "x" }));
  const orderLocation = String(placed.headers["location"]);
  await ask("GET /v1/orders/{id}", 200, get(url, orderLocation));
  await ask("GET /v1/orders/{id}", 404, get(url, "/v1/orders/or_0"));

  const checkouts = "POST /v1/checkouts";
  const checkoutKey = { "Idempotency-Key": newKey() };
  const paid = await ask(checkouts, made, post(url, "/v1/checkouts", checkout, checkoutKey));
  await ask(checkouts, made, post(url, "/v1/checkouts", checkout, checkoutKey));
  await ask(checkouts, made, post(url, "/v1/checkouts", checkout));
  await ask(checkouts, 400, post(url, "/v1/checkouts", {}));
  await ask(checkouts, 401, post(url, "/v1/checkouts", checkout, { Authorization: "x" }));
  const broke = { ...checkout, source: "tok_chargeDeclined" };
  const brokeKey = { "Idempotency-Key": newKey() };
  await ask(checkouts, 402, post(url, "/v1/checkouts", broke, brokeKey));
  await ask(checkouts, 402, post(url, "/v1/checkouts", broke, brokeKey));
  const wish = { ...checkout, items: [{ sku: "unicorn", quantity: 1 }] };
  const wishKey = { "Idempotency-Key": newKey() };
  await ask(checkouts, 409, post(url, "/v1/checkouts", wish, wishKey));
  await ask(checkouts, 409, post(url, "/v1/checkouts", wish, wishKey));
  await ask("GET /v1/checkouts/{id}", 200, get(url, String(paid.headers["location"])));
  await ask("GET /v1/checkouts/{id}", 404, get(url, "/v1/checkouts/co_0"));
  await ask("GET /healthz", 200, get(url, "/healthz", {}));
  await ask("GET /readyz", 200, get(url, "/readyz", {}));
  await ask("GET /metrics", 200, get(url, "/metrics", {}));
  expect(faults).toEqual([]);
});

describe("a key without an answer to replay is told as documented:", () => {
  /** Places an order and changes what is known of its key; asks a server that remembers nothing. */
  async function askAfter(change: string): Promise<RawResponse> {
    const key = newKey();
    await post(api.url, "/v1/orders", order, { "Idempotency-Key": key });
    const changed = `update idempotency_keys set ${change} where key = $1`;
    expect((await api.pool.query(changed, [key])).rowCount).toBe(1);
    const other = await api.another();
    return post(other.url, "/v1/orders", order, { "Idempotency-Key": key });
  }
  const noResponse = "status = null, head = null, body = null";

  test.each([
    [
      "outcome_unknown",
      `state = 'running', lease_until = clock_timestamp() - interval '1 second', ${noResponse},
       completed_at = null, replay_until = null, dedupe_until = null, reap_at = null`,
    ],
    ["key_expired", "replay_until = clock_timestamp() - interval '1 second'"],
    ["response_not_stored", `not_stored = true, ${noResponse}`],
  ])("%s", async (code, change) => {
    const verdict = await judged("POST /v1/orders", askAfter(change));
    expect(verdict).toEqual({ status: 409, code, faults: [] });
  });

  test("in_progress", async () => {
    const key = newKey();
    const slow = { ...charge, source: "tok_slow_400" };
    const first = post(api.url, "/v1/charges", slow, { "Idempotency-Key": key });
    await waitFor(async () => {
      const held = `select from pg_locks
        where locktype = 'advisory' and database = (select oid from pg_database where datname = current_database())`;
      return ((await api.pool.query(held)).rowCount ?? 0) > 0;
    });
    const second = post(api.url, "/v1/charges", slow, { "Idempotency-Key": key });
    const verdict = await judged("POST /v1/charges", second);
    expect(verdict).toEqual({ status: 409, code: "in_progress", faults: [] });
    expect((await second).headers["retry-after"]).toMatch(/^\d+$/);
    expect((await first).status).toBe(201);
  });

  test("store_unavailable, and not_ready", async () => {
    const proxy = await startTcpProxy({ target: api.databaseUrl });
    const server = await api.another({ DATABASE_URL: proxy.via(api.databaseUrl) });
    proxy.refuse();
    const key = { "Idempotency-Key": newKey() };
    const refused = post(server.url, "/v1/orders", order, key);
    const verdicts = await Promise.all([
      judged("POST /v1/orders", refused),
      judged("GET /readyz", get(server.url, "/readyz", {})),
    ]);
    expect(verdicts).toEqual([
      { status: 503, code: "store_unavailable", faults: [] },
      { status: 503, code: "not_ready", faults: [] },
    ]);
    expect((await refused).headers["retry-after"]).toMatch(/^\d+$/);
    expect(api.log).toContain('"event":"store_error"');
    proxy.heal();
    await waitFor(async () => (await post(server.url, "/v1/orders", order, key)).status === 201);
    // The server is closed after the tests, and must not find its way to Postgres gone by then.
    await server.close();
    await proxy.close();
  });
});

describe.each(["ietf", "stripe"] as const)(
  "every error in the %s dialect is documented:",
  (dialect) => {
    test.each(Object.keys(errorTable) as ErrorCode[])("%s of the library", (code) => {
      const details = code === "key_reused" ? { differs: ["body.amount"] } : {};
      const { status, headers, body } = renderError(new IdempotencyError(code, details), dialect);
      const named = headers.map(([name, value]) => [name.toLowerCase(), value]);
      const response = {
        status,
        headers: {
          "request-id": `req_${"0".repeat(24)}`,
          ...(Object.fromEntries(named) as object),
        },
        bytes: Buffer.from(body),
      };
      expect(faultsOf("POST /v1/orders", response)).toEqual([]);
    });

    /** What the server's own error handler makes of an error. */
    async function sent(error: Error): Promise<RawResponse> {
      const app = express();
      app.use((_req, res) => {
        res.setHeader("Request-Id", `req_${"0".repeat(24)}`);
        throw error;
      });
      app.use(sendErrors(dialect));
      const server = createServer(app).listen(0, "127.0.0.1");
      await new Promise((resolve) => server.once("listening", resolve));
      const { port } = server.address() as AddressInfo;
      const response = await get(`http://127.0.0.1:${port}`, "/");
      server.close();
      return response;
    }
    // 405 belongs to no operation, since operations are the methods that are allowed.
    const codes = (Object.keys(apiErrorTable) as ApiErrorCode[]).filter(
      (code) => code !== "method_not_allowed",
    );
    const headers = { "WWW-Authenticate": "Bearer" };

    test.each(codes)("%s of the server", async (code) => {
      const details = code === "unauthorized" ? { headers } : {};
      const response = await sent(new ApiError(code, "For this test.", details));
      const elsewhere: Partial<Record<ApiErrorCode, string>> = {
        not_found: "GET /v1/charges/{id}",
        out_of_stock: "POST /v1/checkouts",
      };
      const name = elsewhere[code] ?? "POST /v1/charges";
      expect(faultsOf(name, response)).toEqual([]);
    });

    test("method_not_allowed of the server", async () => {
      const { status, json } = await sent(new ApiError("method_not_allowed", "For this test."));
      const schema = dialect === "ietf" ? "Problem" : "StripeError";
      expect([status, fits(schema, json())]).toEqual([405, true]);
    });

    test("transaction_failed, which the library leaves to the server", async () => {
      const response = await sent(new IdempotencyError("transaction_failed"));
      expect(faultsOf("POST /v1/charges", response)).toEqual([]);
      expect(response.bytes.toString()).toContain('"code":"transaction_failed"');
    });
  },
);

test("the judge finds what is wrong", async () => {
  const good = await post(api.url, "/v1/charges", charge);
  const headers = { ...good.headers };
  const wrong = (change: Partial<RawResponse>): string[] =>
    faultsOf("POST /v1/charges", { ...good, ...change });
  expect(wrong({})).toEqual([]);
  expect(wrong({ status: 204 })).toHaveLength(1);
  expect(wrong({ headers: { ...headers, "content-type": "text/plain" } })).toHaveLength(1);
  expect(wrong({ headers: { ...headers, "idempotency-surprise": "1" } })).toHaveLength(1);
  expect(wrong({ headers: { ...headers, "idempotent-replayed": "yes" } })).toHaveLength(1);
  expect(wrong({ headers: { ...headers, location: undefined } })).toHaveLength(1);
  expect(wrong({ bytes: Buffer.from('{"id":"ch_1"}') })).toHaveLength(1);
  const surplus = { ...good.json(), card: "4242" };
  expect(wrong({ bytes: Buffer.from(JSON.stringify(surplus)) })).toHaveLength(1);
});
