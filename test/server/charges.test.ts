import request from "supertest";

import { accountA, accountB, charge, get, newKey, post, send, useApi } from "./api.js";

const api = useApi();

test("makes a charge and answers it", async () => {
  const key = newKey();
  const response = await request(api.url)
    .post("/v1/charges")
    .set(accountA)
    .set("Idempotency-Key", key)
    .send({
      ...charge,
      currency: "EUR",
      description: "two mugs",
      metadata: { order: "1042", shop: "7" },
    })
    .expect(201)
    .expect("Content-Type", "application/json; charset=utf-8")
    .expect("Idempotency-Key", key);
  const { id, created, ...rest } = response.body as Record<string, unknown>;
  expect(rest).toEqual({
    object: "charge",
    amount: 2000,
    amount_captured: 2000,
    amount_refunded: 0,
    captured: true,
    currency: "eur",
    description: "two mugs",
    livemode: false,
    metadata: { order: "1042", shop: "7" },
    paid: true,
    refunded: false,
    source: "tok_visa",
    status: "succeeded",
  });
  expect(id).toMatch(/^ch_[0-9a-f]{24}$/);
  expect(Math.abs(Number(created) - Date.now() / 1000)).toBeLessThan(60);
  expect(response.headers["location"]).toBe(`/v1/charges/${String(id)}`);
  expect(response.headers["original-request"]).toBe(response.headers["request-id"]);
  expect(response.headers["idempotent-replayed"]).toBeUndefined();
  expect(response.text).toContain('"metadata":{"order":"1042","shop":"7"}');
  const read = await get(api.url, `/v1/charges/${String(id)}`);
  expect(read.bytes.toString()).toBe(response.text);

  const { rows } = await api.pool.query(
    "select account, livemode, amount, currency, source, description, metadata from charges where idempotency_key = $1",
    [key],
  );
  expect(rows).toEqual([
    {
      account: "acct_a",
      livemode: false,
      amount: 2000,
      currency: "eur",
      source: "tok_visa",
      description: "two mugs",
      metadata: { order: "1042", shop: "7" },
    },
  ]);
});

test("answers a retry with the same bytes, also from another server without any cache", async () => {
  const key = newKey();
  const first = await post(api.url, "/v1/charges", charge, { "Idempotency-Key": key });
  const other = await api.another();
  for (const url of [api.url, api.url, other.url]) {
    const retry = await post(url, "/v1/charges", charge, { "Idempotency-Key": key });
    expect(retry.status).toBe(201);
    expect(retry.bytes.equals(first.bytes)).toBe(true);
    expect(retry.headers["idempotent-replayed"]).toBe("true");
    expect(retry.headers["original-request"]).toBe(first.headers["request-id"]);
    expect(retry.headers["request-id"]).not.toBe(first.headers["request-id"]);
    expect(retry.headers["location"]).toBe(first.headers["location"]);
    expect(retry.headers["idempotency-expires"]).toBe(first.headers["idempotency-expires"]);
  }
  expect(await api.countCharges(key)).toBe(1);
});

test("makes one charge of fifty equal requests at once; each gets it, or 409", async () => {
  const key = newKey();
  const body = { ...charge, source: "tok_slow_50" };
  const other = await api.another();
  const responses = await Promise.all(
    Array.from({ length: 50 }, (_, index) =>
      post(index % 2 === 0 ? api.url : other.url, "/v1/charges", body, { "Idempotency-Key": key }),
    ),
  );
  const made = responses.filter(({ status }) => status === 201);
  expect(new Set(made.map(({ bytes }) => bytes.toString())).size).toBe(1);
  for (const { status, headers, json } of responses) {
    expect([201, 409]).toContain(status);
    if (status !== 409) continue;
    expect(json()).toMatchObject({ code: "in_progress", retryable: true });
    expect(headers["retry-after"]).toMatch(/^\d+$/);
  }
  expect(await api.countCharges(key)).toBe(1);
});

test("reads forms as Stripe's clients send them, with amounts as numbers", async () => {
  const key = newKey();
  const form = () =>
    request(api.url)
      .post("/v1/charges")
      .auth("sk_test_a", "")
      .set("Idempotency-Key", key)
      .type("form")
      .send("amount=2000&currency=usd&source=tok_visa&metadata[order]=1042&metadata[shop]=7");
  const first = await form().expect(201);
  expect(first.body).toMatchObject({
    amount: 2000,
    currency: "usd",
    metadata: { order: "1042", shop: "7" },
  });
  const retry = await form().expect(201).expect("Idempotent-Replayed", "true");
  expect(retry.text).toBe(first.text);
  // Another content type is another request, whatever it means.
  const asJson = await post(api.url, "/v1/charges", charge, { "Idempotency-Key": key });
  expect(asJson.status).toBe(422);
  expect(asJson.json()["differs"]).toContain("content_type");
});

test("does not care for white space and the order of names, and does for everything else", async () => {
  const key = { "Idempotency-Key": newKey() };
  const first = await post(api.url, "/v1/charges", charge, key);
  const reordered = '{ "source":"tok_visa", "currency" : "eur",\n "amount":2000 }';
  const same = await post(api.url, "/v1/charges", reordered, key);
  expect(same.bytes.equals(first.bytes)).toBe(true);
  const other = await post(api.url, "/v1/charges", { ...charge, currency: "usd" }, key);
  expect(other.json()).toMatchObject({ code: "key_reused", differs: ["body.currency"] });
});

test("refuses a key with another amount by naming the field and no value", async () => {
  const key = newKey();
  await post(api.url, "/v1/charges", charge, { "Idempotency-Key": key });
  const other = await api.another();
  for (const url of [api.url, other.url]) {
    const response = await post(
      url,
      "/v1/charges",
      { ...charge, amount: 7654321 },
      {
        "Idempotency-Key": key,
      },
    );
    expect(response.status).toBe(422);
    expect(response.headers["content-type"]).toBe("application/problem+json");
    expect(response.json()).toMatchObject({
      code: "key_reused",
      status: 422,
      retryable: false,
      differs: ["body.amount"],
    });
    expect(response.bytes.toString()).not.toMatch(/7654321|2000|tok_visa/);
  }
  expect(await api.countCharges(key)).toBe(1);
});

test("the same key of another account, or of its live environment, is another key", async () => {
  const key = newKey();
  const accounts = [accountA, accountB, { Authorization: "Bearer sk_live_a" }];
  const ids = new Set<unknown>();
  for (const account of accounts) {
    const response = await post(api.url, "/v1/charges", charge, {
      ...account,
      "Idempotency-Key": key,
    });
    expect(response.status).toBe(201);
    expect(response.headers["idempotent-replayed"]).toBeUndefined();
    ids.add(response.json()["id"]);
  }
  expect(ids.size).toBe(3);
  expect(await api.countCharges(key)).toBe(3);
});

test("without a key every request is a charge", async () => {
  const before = await api.countCharges();
  const first = await post(api.url, "/v1/charges", charge);
  const second = await post(api.url, "/v1/charges", charge);
  expect([first.status, second.status]).toEqual([201, 201]);
  expect(first.json()["id"]).not.toBe(second.json()["id"]);
  expect(first.headers["idempotency-key"]).toBeUndefined();
  expect(await api.countCharges()).toBe(before + 2);
});

test("a declined card is definitive: stored, replayed, and no charge", async () => {
  const key = newKey();
  const body = { ...charge, source: "tok_chargeDeclined" };
  const first = await post(api.url, "/v1/charges", body, { "Idempotency-Key": key });
  expect(first.status).toBe(402);
  expect(first.json()).toMatchObject({ code: "card_declined", retryable: false });
  const retry = await post(api.url, "/v1/charges", body, { "Idempotency-Key": key });
  expect(retry.status).toBe(402);
  expect(retry.headers["idempotent-replayed"]).toBe("true");
  expect(retry.bytes.equals(first.bytes)).toBe(true);
  expect(await api.countCharges(key)).toBe(0);
});

describe("refuses, by naming every field that is wrong,", () => {
  test.each<[string, unknown, string[]]>([
    ["nothing", {}, ["amount", "currency", "source"]],
    ["an array", [], ["body"]],
    ["zero", { ...charge, amount: 0 }, ["amount"]],
    ["more than eight digits", { ...charge, amount: 100_000_000 }, ["amount"]],
    ["a fraction", { ...charge, amount: 1.5 }, ["amount"]],
    ["text for a number", { ...charge, amount: "2000" }, ["amount"]],
    ["a currency that is none", { ...charge, currency: "euro" }, ["currency"]],
    ["an empty source", { ...charge, source: "" }, ["source"]],
    ["a long source", { ...charge, source: "x".repeat(256) }, ["source"]],
    ["what Postgres cannot hold", { ...charge, source: "a\0b" }, ["source"]],
    ["broken Unicode", { ...charge, description: "\ud800" }, ["description"]],
    ["metadata with a number", { ...charge, metadata: { a: 1 } }, ["metadata.a"]],
    [
      "too much metadata",
      { ...charge, metadata: Object.fromEntries([...Array(51).keys()].map((n) => [`n${n}`, "x"])) },
      ["metadata"],
    ],
    [
      "a long name",
      { ...charge, metadata: { ["n".repeat(41)]: "x" } },
      ["metadata." + "n".repeat(41)],
    ],
    ["unknown fields", { ...charge, amonut: 1, capture: true }, ["amonut", "capture"]],
  ])("%s", async (_what, body, fields) => {
    const key = newKey();
    const response = await post(api.url, "/v1/charges", body, { "Idempotency-Key": key });
    expect(response.status).toBe(400);
    const problem = response.json() as { code: string; errors: { field: string }[] };
    expect(problem.code).toBe("invalid_request");
    expect(problem.errors.map(({ field }) => field)).toEqual(fields);
    // The key was not taken: the mended request is the first one.
    const mended = await post(api.url, "/v1/charges", charge, { "Idempotency-Key": key });
    expect(mended.status).toBe(201);
    expect(mended.headers["idempotent-replayed"]).toBeUndefined();
  });

  test("a form's amount that is no number", async () => {
    const response = await post(api.url, "/v1/charges", "amount=2e3&currency=eur&source=x", {
      "Content-Type": "application/x-www-form-urlencoded",
    });
    expect(response.json()).toMatchObject({ errors: [{ field: "amount" }] });
  });
});

describe("reading", () => {
  test("pages through the newest first, of one account and environment", async () => {
    const keys = { Authorization: "Bearer sk_live_a" };
    const before = ((await get(api.url, "/v1/charges?limit=100", keys)).json()["data"] as unknown[])
      .length;
    for (let amount = 1; amount <= 5; amount += 1)
      await post(api.url, "/v1/charges", { ...charge, amount }, keys);
    const first = (await get(api.url, "/v1/charges?limit=2", keys)).json() as Page;
    expect(first).toMatchObject({ object: "list", url: "/v1/charges", has_more: true });
    expect(first.data.map(({ amount }) => amount)).toEqual([5, 4]);
    expect(first.data.every(({ livemode }) => livemode)).toBe(true);
    const second = (
      await get(api.url, `/v1/charges?limit=3&starting_after=${first.data[1]?.id}`, keys)
    ).json() as Page;
    expect(second.data.map(({ amount }) => amount)).toEqual([3, 2, 1]);
    expect(second.has_more).toBe(before > 0);
  });

  test("says when there are no more", async () => {
    const last = (await get(api.url, "/v1/charges?limit=100", accountB)).json() as Page;
    expect(last.has_more).toBe(false);
  });

  test.each(["limit=0", "limit=101", "limit=x", "starting_after=ch_nobody", "order=asc"])(
    "refuses ?%s",
    async (query) => {
      const response = await get(api.url, `/v1/charges?${query}`);
      expect(response.status).toBe(400);
      const { errors } = response.json() as { errors: { field: string }[] };
      expect(errors.map(({ field }) => field)).toEqual([query.split("=")[0]]);
    },
  );

  test("knows no charge of another account, nor what is no id", async () => {
    const made = (await post(api.url, "/v1/charges", charge)).json();
    expect((await get(api.url, `/v1/charges/${String(made["id"])}`, accountB)).status).toBe(404);
    for (const id of ["ch_0123456789abcdef01234567", "%00", "ch_%ff", "x".repeat(500)]) {
      const response = await get(api.url, `/v1/charges/${id}`);
      expect([id, response.status]).toEqual([id, id === "ch_%ff" ? 400 : 404]);
    }
  });

  test("ignores an idempotency key", async () => {
    const key = newKey();
    const read = async () =>
      send(api.url, "/v1/charges?limit=1", {
        method: "GET",
        headers: [...Object.entries(accountA), ["Idempotency-Key", key]],
      });
    const first = await read();
    expect(first.headers["idempotency-key"]).toBeUndefined();
    await post(api.url, "/v1/charges", charge, { "Idempotency-Key": key });
    const second = await read();
    expect(second.bytes.equals(first.bytes)).toBe(false);
    expect(second.headers["idempotent-replayed"]).toBeUndefined();
  });
});

type Page = { has_more: boolean; data: { id: string; amount: number; livemode: boolean }[] };
