import { accountA, charge, get, newKey, order, post, send, useApi } from "./api.js";
import { waitFor } from "../support/wait-for.js";

const api = useApi();
const body = JSON.stringify(charge);
const json: readonly (readonly [string, string])[] = [
  ...Object.entries(accountA),
  ["Content-Type", "application/json"],
  ["Content-Length", String(Buffer.byteLength(body))],
];

test('"abc" and abc are one key, and each is echoed as it was sent', async () => {
  const key = newKey();
  const bare = await post(api.url, "/v1/charges", charge, { "Idempotency-Key": key });
  const quoted = await post(api.url, "/v1/charges", charge, { "Idempotency-Key": `"${key}"` });
  expect(quoted.headers["idempotent-replayed"]).toBe("true");
  expect(quoted.bytes.equals(bare.bytes)).toBe(true);
  expect([bare, quoted].map(({ headers }) => headers["idempotency-key"])).toEqual([
    key,
    `"${key}"`,
  ]);
  expect(await api.countCharges(key)).toBe(1);
});

test("255 characters are a key", async () => {
  const key = newKey().padEnd(255, "x");
  const response = await post(api.url, "/v1/charges", charge, { "Idempotency-Key": key });
  expect(response.status).toBe(201);
  expect(await api.countCharges(key)).toBe(1);
});

test.each<[string, string[]]>([
  ["empty", [""]],
  ["only spaces", ["  "]],
  ["quoted and empty", ['""']],
  ["256 characters", ["x".repeat(256)]],
  ["non-ASCII", ["schlüssel"]],
  ["repeated", ["abc", "abc"]],
  ["repeated with another value", ["abc", "def"]],
  ["an open quotation", ['"abc']],
  ["a quotation mark inside", ['a"bc']],
  ["text behind the quotation", ['"abc" def']],
  ["a bad escape", [String.raw`"a\bc"`]],
])("refuses a key that is %s", async (_what, values) => {
  const before = await api.countCharges();
  for (const [path, text] of [
    ["/v1/charges", body],
    ["/v1/orders", JSON.stringify(order)],
  ] as const) {
    const response = await send(api.url, path, {
      headers: [
        ...json.filter(([name]) => name !== "Content-Length"),
        ...values.map((value) => ["Idempotency-Key", value] as const),
        ["Content-Length", String(Buffer.byteLength(text))],
      ],
      body: text,
    });
    expect([path, response.status]).toEqual([path, 400]);
    expect(response.json()).toMatchObject({ code: "key_invalid", retryable: false });
  }
  expect(await api.countCharges()).toBe(before);
});

test("the same key on another path is another request", async () => {
  const key = { "Idempotency-Key": newKey() };
  await post(api.url, "/v1/orders", order, key);
  const response = await post(api.url, "/v1/charges", charge, key);
  expect(response.status).toBe(422);
  expect(response.json()["differs"]).toContain("path");
});

test("a request that is refused before its key is looked at does not take it", async () => {
  const key = newKey();
  const refused = [
    await post(api.url, "/v1/charges", charge, {
      Authorization: "Bearer sk_wrong",
      "Idempotency-Key": key,
    }),
    await post(api.url, "/v1/charges", charge, { Authorization: "", "Idempotency-Key": key }),
    await post(api.url, "/v1/charges", '{"amount":', { "Idempotency-Key": key }),
    await post(
      api.url,
      "/v1/charges",
      { ...charge, source: "x".repeat(200_000) },
      {
        "Idempotency-Key": key,
      },
    ),
    await post(api.url, "/v1/charges", charge, {
      "Content-Type": "text/plain",
      "Idempotency-Key": key,
    }),
  ];
  expect(refused.map(({ status }) => status)).toEqual([401, 401, 400, 413, 415]);
  const { rows } = await api.pool.query("select 1 from idempotency_keys where key = $1", [key]);
  expect(rows).toEqual([]);
  const first = await post(api.url, "/v1/charges", charge, { "Idempotency-Key": key });
  expect(first.status).toBe(201);
  expect(first.headers["idempotent-replayed"]).toBeUndefined();
});

test("integers beyond 2^53 are not taken for each other", async () => {
  const key = { "Idempotency-Key": newKey() };
  // Both parse to the same double, which the field's own limit refuses; the raw bytes are what the key would compare.
  for (const amount of ["9007199254740993", "9007199254740992"]) {
    const text = `{"amount":${amount},"currency":"eur","source":"tok_visa"}`;
    expect((await post(api.url, "/v1/charges", text, key)).status).toBe(400);
  }
});

describe("orders", () => {
  test("are placed once and read again", async () => {
    const key = newKey();
    const first = await post(api.url, "/v1/orders", order, { "Idempotency-Key": key });
    expect(first.status).toBe(201);
    expect(first.json()).toMatchObject({
      object: "order",
      status: "created",
      total: 2500,
      currency: "eur",
      customer: null,
      items: order.items,
      livemode: false,
    });
    const id = String(first.json()["id"]);
    expect(first.headers["location"]).toBe(`/v1/orders/${id}`);
    const other = await api.another();
    for (const url of [api.url, other.url]) {
      const retry = await post(url, "/v1/orders", order, { "Idempotency-Key": key });
      expect(retry.status).toBe(201);
      expect(retry.bytes.equals(first.bytes)).toBe(true);
      expect(retry.headers["idempotent-replayed"]).toBe("true");
    }
    expect((await get(api.url, `/v1/orders/${id}`)).json()).toEqual(first.json());
    const { rows } = await api.pool.query("select id from orders where idempotency_key = $1", [
      key,
    ]);
    expect(rows).toEqual([{ id }]);
    const stranger = { Authorization: "Bearer sk_test_b" };
    expect((await get(api.url, `/v1/orders/${id}`, stranger)).status).toBe(404);
  });

  test("need a key", async () => {
    const response = await post(api.url, "/v1/orders", order);
    expect(response.status).toBe(400);
    expect(response.json()).toMatchObject({ code: "key_missing" });
  });

  test("in progress answer 409, a changed one 422 at once, and a later retry the order", async () => {
    const name = newKey();
    const key = { "Idempotency-Key": name };
    const slow = { ...order, customer: "slow_600" };
    const other = await api.another();
    const first = post(api.url, "/v1/orders", slow, key);
    await waitFor(async () => {
      const running = "select from idempotency_keys where key = $1 and state = 'running'";
      return (await api.pool.query(running, [name])).rowCount === 1;
    });
    const early = await post(other.url, "/v1/orders", slow, key);
    expect(early.json()).toMatchObject({ code: "in_progress", retryable: true });
    const changed = await post(other.url, "/v1/orders", { ...slow, currency: "usd" }, key);
    expect(changed.json()).toMatchObject({ code: "key_reused", differs: ["body.currency"] });
    const { bytes } = await first;
    const retry = await post(other.url, "/v1/orders", slow, key);
    expect(retry.bytes.equals(bytes)).toBe(true);
  });

  test("name the item that is wrong, in JSON and in a form", async () => {
    const items = [
      { sku: "mug", quantity: 1, unit_amount: 5 },
      { sku: "", quantity: 0 },
    ];
    const response = await post(api.url, "/v1/orders", { ...order, items });
    const { errors } = response.json() as { errors: { field: string }[] };
    expect(errors.map(({ field }) => field)).toEqual([
      "items[1].sku",
      "items[1].quantity",
      "items[1].unit_amount",
    ]);
    const form = "currency=eur&items[0][sku]=mug&items[0][quantity]=3&items[0][unit_amount]=100";
    const made = await post(api.url, "/v1/orders", form, {
      "Content-Type": "application/x-www-form-urlencoded",
      "Idempotency-Key": newKey(),
    });
    expect(made.status).toBe(201);
    expect(made.json()["total"]).toBe(300);
  });
});
