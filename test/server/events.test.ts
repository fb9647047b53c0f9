/** Uploads of events: what is counted, what is refused, what a key means, and what the merchants' days come to. */
import { createHash } from "node:crypto";
import { request as httpRequest } from "node:http";
import { gzipSync } from "node:zlib";

import { waitFor } from "../support/wait-for.js";
import { accountA, accountB, get, newKey, post, type RawResponse, send, useApi } from "./api.js";
import { counts, daysFrom, event, ndjson, newMerchant, uploadTo } from "./event-uploads.js";

const api = useApi();

const upload = uploadTo(api);
const daysOf = daysFrom(api);

test("lines and arrays are stored once, and their days are right at once", async () => {
  const merchant = newMerchant();
  const [a, b, c] = [event(merchant), event(merchant), event(merchant, { amount: -30 })];
  expect(await counts(upload([a, b as object, a, ""]))).toEqual([
    200,
    { received: 3, accepted: 3, inserted: 2, updated: 0, duplicates: 1, rejected: 0 },
  ]);
  expect(await daysOf(merchant)).toEqual(["2026-03-01 eur 200/2"]);
  expect(await counts(post(api.url, "/v1/events", [b, c]))).toEqual([
    200,
    { received: 2, accepted: 2, inserted: 1, updated: 0, duplicates: 1, rejected: 0 },
  ]);
  expect(await daysOf(merchant)).toEqual(["2026-03-01 eur 170/3"]);
  expect(await counts(post(api.url, "/v1/events", c))).toMatchObject([200, { duplicates: 1 }]);
});

test("a correction takes the place of the event, in whatever order they come", async () => {
  const merchant = newMerchant();
  const first = event(merchant);
  const later = {
    ...first,
    version: 2,
    amount: 70,
    currency: "USD",
    occurred_at: "2026-03-05T00:00:00+01:00",
  };
  const between = { ...first, version: 1, amount: 90 };
  expect(await counts(upload([first]))).toMatchObject([200, { inserted: 1 }]);
  expect(await daysOf(merchant)).toEqual(["2026-03-01 eur 100/1"]);
  expect(await counts(upload([later]))).toMatchObject([200, { updated: 1, duplicates: 0 }]);
  expect(await counts(upload([between, first]))).toMatchObject([
    200,
    { updated: 0, duplicates: 2 },
  ]);
  expect(await daysOf(merchant)).toEqual(["2026-03-04 usd 70/1"]);
});

test("compressed, in many batches", async () => {
  const merchant = newMerchant();
  const lines = Array.from({ length: 25_000 }, (_, index) =>
    JSON.stringify(event(merchant, { event_id: `${merchant}-${index % 24_000}`, amount: 1 })),
  );
  const body = gzipSync(lines.join("\n"));
  const gzip = {
    ...accountA,
    ...ndjson,
    "Content-Encoding": "gzip",
    "Content-Length": String(body.length),
  };
  const response = send(api.url, "/v1/events", { headers: Object.entries(gzip), body });
  expect(await counts(response)).toEqual([
    200,
    {
      received: 25_000,
      accepted: 25_000,
      inserted: 24_000,
      updated: 0,
      duplicates: 1_000,
      rejected: 0,
    },
  ]);
  expect(await daysOf(merchant)).toEqual(["2026-03-01 eur 24000/24000"]);
  const broken = send(api.url, "/v1/events", {
    headers: Object.entries({ ...gzip, "Content-Length": "1000" }),
    body: body.subarray(0, 1_000),
  });
  expect((await broken).json()).toMatchObject({ status: 400, code: "invalid_request" });
});

test.each([false, true])(
  "damaged on the way, and told while more is coming (digest: %s)",
  async (isDigested) => {
    const body = Buffer.concat([
      gzipSync("x\n".repeat(1_000)).subarray(0, 20),
      Buffer.alloc(3_000_000, 0xee),
    ]);
    const headers = {
      ...accountA,
      ...ndjson,
      "Content-Encoding": "gzip",
      "Content-Length": String(body.length),
      ...(isDigested
        ? { "Content-Digest": `sha-256=:${Buffer.alloc(32).toString("base64")}:` }
        : {}),
    };
    const response = await send(api.url, "/v1/events", { headers: Object.entries(headers), body });
    expect(response.status).toBe(400);
  },
);

describe("under a key", () => {
  test("a retried upload gets its summary again", async () => {
    const merchant = newMerchant();
    const key = { "Idempotency-Key": newKey() };
    const lines = [event(merchant), event(merchant), "bad"];
    const first = await upload(lines, key);
    const second = await upload(lines, key);
    expect(second.bytes.equals(first.bytes)).toBe(true);
    expect(first.json()).toMatchObject({ inserted: 2, duplicates: 0, rejected: 1 });
    expect([first.headers["idempotent-replayed"], second.headers["idempotent-replayed"]]).toEqual([
      undefined,
      "true",
    ]);
    const other = await upload([...lines, event(merchant)], key);
    expect(other.json()).toMatchObject({
      status: 422,
      code: "key_reused",
      differs: ["body.length"],
    });
  });

  const digestOf = (body: string): string =>
    `sha-256=:${createHash("sha256").update(body).digest("base64")}:`;

  test("which belongs to the bytes where their digest is sent", async () => {
    const merchant = newMerchant();
    const [a, b] = [JSON.stringify(event(merchant)), JSON.stringify(event(merchant))];
    expect(a.length).toBe(b.length);
    const key = newKey();
    const headers = { "Idempotency-Key": key, "Content-Digest": digestOf(a) };
    expect((await upload([a], headers)).json()).toMatchObject({ inserted: 1 });
    expect((await upload([a], headers)).headers["idempotent-replayed"]).toBe("true");
    const other = await upload([b], { ...headers, "Content-Digest": digestOf(b) });
    expect(other.json()).toMatchObject({ status: 422, code: "key_reused" });
    // Without one, equal lengths are equal: the key alone decides.
    const bare = { "Idempotency-Key": newKey() };
    await upload([a], bare);
    expect((await upload([b], bare)).headers["idempotent-replayed"]).toBe("true");
  });

  test("and is free again after bytes that were others on the way", async () => {
    const merchant = newMerchant();
    const line = JSON.stringify(event(merchant));
    const headers = { "Idempotency-Key": newKey(), "Content-Digest": digestOf(line) };
    const damaged = await upload([line.replace("100", "900")], headers);
    expect(damaged.json()).toMatchObject({ status: 400, code: "digest_invalid" });
    // Redis may call it running for a moment after it was given back.
    const again = await waitFor(async () => {
      const response = await upload([line], headers);
      return response.status === 200 && response.json();
    });
    expect(again).toMatchObject({ received: 1, accepted: 1 });
    expect((await upload([line], { ...headers, "Content-Digest": "md5=:x:" })).status).toBe(400);
  });

  test("which is free again after an upload that broke off, whose events count once", async () => {
    const merchant = newMerchant();
    const lines = Array.from({ length: 20_000 }, (_, index) =>
      JSON.stringify(event(merchant, { event_id: `${merchant}-${index}`, amount: 1 })),
    );
    const text = lines.join("\n");
    const key = newKey();
    const outgoing = httpRequest(`${api.url}/v1/events`, {
      method: "POST",
      headers: {
        ...accountA,
        ...ndjson,
        "Idempotency-Key": key,
        "Content-Length": String(text.length),
      },
    });
    outgoing.on("error", () => {});
    outgoing.write(text.slice(0, (text.length * 3) / 4));
    const stored = async (): Promise<number> => {
      const { rows } = await api.pool.query<{ count: number }>(
        "select count(*)::int as count from events where merchant_id = $1",
        [merchant],
      );
      return rows[0]?.count ?? 0;
    };
    await waitFor(async () => (await stored()) > 0);
    outgoing.destroy();
    await waitFor(async () => {
      const { rowCount } = await api.pool.query("select from idempotency_keys where key = $1", [
        key,
      ]);
      return rowCount === 0;
    });
    const before = await stored();
    expect(before).toBeLessThan(20_000);
    const again = await waitFor(async () => {
      const response = await upload(lines, { "Idempotency-Key": key });
      return response.status !== 409 && response;
    });
    expect(await counts(again as RawResponse)).toMatchObject([
      200,
      { received: 20_000, inserted: 20_000 - before, duplicates: before },
    ]);
    expect(await daysOf(merchant)).toEqual(["2026-03-01 eur 20000/20000"]);
  });
});

test("an account sees its own events, merchants and days alone", async () => {
  const merchant = newMerchant();
  const same = event(merchant);
  await upload([same]);
  expect(await counts(upload([{ ...same, amount: 5 }], accountB))).toMatchObject([
    200,
    { inserted: 1 },
  ]);
  await upload([{ ...same, amount: 7 }], { Authorization: "Bearer sk_live_a" });
  expect(await daysOf(merchant)).toEqual(["2026-03-01 eur 100/1"]);
  expect(await daysOf(merchant, accountB)).toEqual(["2026-03-01 eur 5/1"]);
  expect(await daysOf(merchant, { Authorization: "Bearer sk_live_a" })).toEqual([
    "2026-03-01 eur 7/1",
  ]);
  await api.pool.query("update revenue_daily set amount = 0 where merchant_id = $1", [merchant]);
  const range = { from: "2026-03-01", to: "2026-03-01" };
  const recompute = post(
    api.url,
    "/v1/revenue/recompute",
    { ...range, merchant_id: merchant },
    accountB,
  );
  expect((await recompute).json()).toMatchObject({ computed: 1, changed: 1 });
  expect(await daysOf(merchant)).toEqual(["2026-03-01 eur 0/1"]);
});

test("days are the merchant's own, and follow its time zone", async () => {
  const merchant = newMerchant();
  await upload([event(merchant, { occurred_at: "2026-03-01T23:30:00Z" }), event(merchant)]);
  expect(await daysOf(merchant)).toEqual(["2026-03-01 eur 200/2"]);
  const put = (zone: string): Promise<RawResponse> => {
    const body = JSON.stringify({ time_zone: zone });
    const headers = {
      ...accountA,
      "Content-Type": "application/json",
      "Content-Length": String(body.length),
    };
    return send(api.url, `/v1/merchants/${merchant}`, {
      method: "PUT",
      headers: Object.entries(headers),
      body,
    });
  };
  expect((await put("Europe/Berlin")).json()).toEqual({
    object: "merchant",
    id: merchant,
    time_zone: "Europe/Berlin",
  });
  expect(await daysOf(merchant)).toEqual(["2026-03-01 eur 100/1", "2026-03-02 eur 100/1"]);
  expect((await put("Mars/Base")).json()).toMatchObject({
    status: 400,
    errors: [{ field: "time_zone" }],
  });
  await upload([event(merchant, { occurred_at: "2026-03-02T22:59:59Z" })]);
  expect(await daysOf(merchant)).toEqual(["2026-03-01 eur 100/1", "2026-03-02 eur 200/2"]);
});

test("sums are exact beyond 2^53", async () => {
  const merchant = newMerchant();
  const large = Array.from({ length: 9_008 }, (_, index) =>
    event(merchant, { event_id: `${merchant}-${index}`, amount: 1e12 }),
  );
  await upload([...large, event(merchant, { amount: 1 })]);
  const { bytes } = await get(api.url, `/v1/revenue/${merchant}?from=2026-03-01&to=2026-03-01`);
  expect(bytes.toString()).toContain('"amount" : 9008000000000001');
});

test("days are marked by whoever writes, and computed by the worker when nobody asks", async () => {
  const merchant = newMerchant();
  await upload([event(merchant)]);
  await waitFor(async () => {
    const { rowCount } = await api.pool.query("select from revenue_daily where merchant_id = $1", [
      merchant,
    ]);
    return rowCount === 1;
  });
  const metrics = (await get(api.url, "/metrics", {})).bytes.toString();
  expect(metrics).toMatch(/^oncekey_uploaded_events_total\{outcome="inserted"\} [1-9]/m);
  expect(metrics).toMatch(/^oncekey_recomputed_keys_total\{outcome="computed"\} [1-9]/m);
});

test("requests that are none are refused", async () => {
  const codes = async (asked: Promise<RawResponse>): Promise<unknown> =>
    (await asked).json()["code"];
  expect(await codes(upload(["{}"], { "Content-Type": "text/plain" }))).toBe(
    "unsupported_media_type",
  );
  expect(await codes(upload(["{}"], { "Content-Encoding": "compress" }))).toBe(
    "unsupported_media_type",
  );
  expect(await codes(upload(["{}"], { Authorization: "x" }))).toBe("unauthorized");
  const revenue = (query: string): Promise<unknown> =>
    codes(get(api.url, `/v1/revenue/m1?${query}`));
  expect(await revenue("from=2026-02-30")).toBe("invalid_request");
  expect(await revenue("from=2026-03-02&to=2026-03-01")).toBe("invalid_request");
  expect(await revenue("from=2024-03-02&to=2026-03-01")).toBe("invalid_request");
  expect(await revenue("page=1")).toBe("invalid_request");
  expect(await codes(get(api.url, "/v1/revenue/%00"))).toBe("invalid_request");
  expect(await codes(post(api.url, "/v1/revenue/recompute", {}))).toBe("invalid_request");
  expect((await get(api.url, "/v1/revenue/m1")).json()).toMatchObject({
    time_zone: "UTC",
    days: [],
  });
});
