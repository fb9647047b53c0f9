/** What the server refuses by itself, in both dialects, and the headers of every response. */
import { gzipSync } from "node:zlib";

import { accountA, charge, newKey, post, send, useApi } from "./api.js";

const ietf = useApi();
const stripe = useApi({ ONCEKEY_DIALECT: "stripe" });

type Case = {
  send: (url: string) => ReturnType<typeof send>;
  status: number;
  code: string;
  stripeType: string;
  param?: string;
};

const authorised = Object.entries(accountA);
const cases: Record<string, Case> = {
  "no API key": {
    send: (url) => send(url, "/v1/charges", { method: "GET" }),
    status: 401,
    code: "unauthorized",
    stripeType: "invalid_request_error",
  },
  "a wrong API key": {
    send: (url) => post(url, "/v1/charges", charge, { Authorization: "Bearer sk_test_secret99" }),
    status: 401,
    code: "unauthorized",
    stripeType: "invalid_request_error",
  },
  "a field that is wrong": {
    send: (url) => post(url, "/v1/charges", { ...charge, amount: -1 }),
    status: 400,
    code: "invalid_request",
    stripeType: "invalid_request_error",
    param: "amount",
  },
  "malformed JSON": {
    send: (url) => post(url, "/v1/charges", '{"amount": 2000, "source": "tok_secret99'),
    status: 400,
    code: "invalid_request",
    stripeType: "invalid_request_error",
  },
  "JSON that is no object": {
    send: (url) => post(url, "/v1/charges", "2000"),
    status: 400,
    code: "invalid_request",
    stripeType: "invalid_request_error",
  },
  "a body beyond 100 KB": {
    send: (url) => post(url, "/v1/charges", { ...charge, description: "x".repeat(102_400) }),
    status: 413,
    code: "payload_too_large",
    stripeType: "invalid_request_error",
  },
  "a body that is small only while compressed": {
    send: (url) => {
      const body = gzipSync(JSON.stringify({ ...charge, description: "x".repeat(5_000_000) }));
      const headers = [...authorised, ["Content-Type", "application/json"] as const];
      return send(url, "/v1/charges", {
        headers: [
          ...headers,
          ["Content-Encoding", "gzip"],
          ["Content-Length", String(body.length)],
        ],
        body,
      });
    },
    status: 413,
    code: "payload_too_large",
    stripeType: "invalid_request_error",
  },
  "another content type": {
    send: (url) => post(url, "/v1/charges", "amount: 2000", { "Content-Type": "text/yaml" }),
    status: 415,
    code: "unsupported_media_type",
    stripeType: "invalid_request_error",
  },
  "another charset": {
    send: (url) =>
      post(url, "/v1/charges", charge, { "Content-Type": "application/json; charset=klingon" }),
    status: 415,
    code: "unsupported_media_type",
    stripeType: "invalid_request_error",
  },
  "an unknown path": {
    send: (url) => send(url, "/v2/charges", { method: "GET" }),
    status: 404,
    code: "not_found",
    stripeType: "invalid_request_error",
  },
  "another method": {
    send: (url) => send(url, "/v1/charges", { method: "DELETE", headers: authorised }),
    status: 405,
    code: "method_not_allowed",
    stripeType: "invalid_request_error",
  },
  "a declined card": {
    send: (url) => post(url, "/v1/charges", { ...charge, source: "tok_chargeDeclined" }),
    status: 402,
    code: "card_declined",
    stripeType: "card_error",
  },
};

describe.each(Object.entries(cases))(
  "%s",
  (_name, { send: ask, status, code, stripeType, param }) => {
    test("as a problem document", async () => {
      const response = await ask(ietf.url);
      expect(response.status).toBe(status);
      expect(response.headers["content-type"]).toBe("application/problem+json");
      expect(response.json()).toMatchObject({
        type: `https://oncekey.dev/server-errors#${code}`,
        status,
        code,
        retryable: false,
      });
      expect(response.headers["request-id"]).toMatch(/^req_[0-9a-f]{24}$/);
      expect(response.bytes.toString()).not.toContain("secret99");
    });

    test("in Stripe's envelope", async () => {
      const response = await ask(stripe.url);
      expect(response.status).toBe(status);
      expect(response.headers["content-type"]).toBe("application/json");
      const { error } = response.json() as { error: Record<string, unknown> };
      expect(error["type"]).toBe(stripeType);
      expect(error["param"]).toBe(param);
      expect(error["message"]).toEqual(expect.any(String));
      expect(response.headers["stripe-should-retry"]).toBe("false");
      expect(response.bytes.toString()).not.toContain("secret99");
    });
  },
);

test("the Stripe dialect answers 200, and 400 idempotency_error on a mismatch", async () => {
  const key = { "Idempotency-Key": newKey() };
  const first = await post(stripe.url, "/v1/charges", charge, key);
  expect([first.status, first.headers["stripe-should-retry"]]).toEqual([200, "false"]);
  const retry = await post(stripe.url, "/v1/charges", charge, key);
  expect(retry.bytes.equals(first.bytes)).toBe(true);
  expect(retry.headers["idempotent-replayed"]).toBe("true");
  const other = await post(stripe.url, "/v1/charges", { ...charge, amount: 1 }, key);
  expect(other.status).toBe(400);
  expect(other.json()).toMatchObject({ error: { type: "idempotency_error" } });
  const unkeyed = await post(stripe.url, "/v1/orders", {
    currency: "eur",
    items: [{ sku: "mug", quantity: 1, unit_amount: 1 }],
  });
  expect(unkeyed.json()).toMatchObject({ error: { type: "invalid_request_error" } });
});

test("a refused API key says how to send one, and shows no more of it than its kind", async () => {
  const response = await send(ietf.url, "/v1/charges", {
    method: "GET",
    headers: [["Authorization", "Bearer sk_live_0123456789abcdef"]],
  });
  expect(response.headers["www-authenticate"]).toBe(
    'Bearer realm="oncekey", Basic realm="oncekey", charset="UTF-8"',
  );
  expect(response.json()["detail"]).toBe("Invalid API Key provided: sk_live_…");
});

test.each([
  ["Bearer sk_test_a", 200],
  ["bearer  sk_test_a", 200],
  [basic("sk_test_a:"), 200],
  [basic("sk_test_a"), 200],
  [basic("sk_test_a:password"), 401],
  [basic(":sk_test_a"), 401],
  ["Basic ====", 401],
  ["Bearer", 401],
  ["Bearer sk_test_a extra", 401],
  ["Bearer sk_test_A", 401],
  ["Digest sk_test_a", 401],
  ["sk_test_a", 401],
])("Authorization: %s gives %i", async (value, status) => {
  const response = await send(ietf.url, "/v1/charges", {
    method: "GET",
    headers: [["Authorization", value]],
  });
  expect(response.status).toBe(status);
});

function basic(text: string): string {
  return `Basic ${Buffer.from(text).toString("base64")}`;
}

test("a path tells which methods it knows", async () => {
  const refused = await send(ietf.url, "/v1/charges", { method: "PUT", headers: authorised });
  expect(refused.headers["allow"]).toBe("GET, POST, HEAD, OPTIONS");
  const asked = await send(ietf.url, "/v1/orders", { method: "OPTIONS", headers: authorised });
  expect([asked.status, asked.headers["allow"]]).toEqual([204, "POST, OPTIONS"]);
  const headed = await send(ietf.url, "/v1/charges", { method: "HEAD", headers: authorised });
  expect([headed.status, headed.bytes.length]).toEqual([200, 0]);
});

test("responses are hardened, name no software and are for nobody's cache", async () => {
  const { headers } = await post(ietf.url, "/v1/charges", charge);
  expect(headers).toMatchObject({
    "content-security-policy": "default-src 'none';frame-ancestors 'none'",
    "strict-transport-security": expect.any(String) as string,
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
  });
  expect(headers["x-powered-by"]).toBeUndefined();
  expect(headers["server"]).toBeUndefined();
  const ids = new Set<unknown>();
  for (let count = 0; count < 3; count += 1)
    ids.add((await send(ietf.url, "/healthz", { method: "GET" })).headers["request-id"]);
  expect(ids.size).toBe(3);
});
