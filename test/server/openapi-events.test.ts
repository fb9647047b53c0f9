/** Holds the routes of events and revenue against openapi.yaml. */
import { accountA, get, newKey, post, type RawResponse, send, useApi } from "./api.js";
import { createRound } from "./openapi-document.js";

const api = useApi();
const stripe = useApi({ ONCEKEY_DIALECT: "stripe" });

test.each([
  ["problem documents", api, 422],
  ["the Stripe dialect", stripe, 400],
] as const)("events and revenue answer as documented, in %s", async (_name, { url }, reused) => {
  const { faults, ask } = createRound();
  const events = "POST /v1/events";
  const event = {
    event_id: newKey(),
    merchant_id: "m_1",
    amount: 1,
    currency: "eur",
    occurred_at: "2026-01-31T12:00:00Z",
  };
  const key = { "Idempotency-Key": newKey() };
  const ndjson = { "Content-Type": "application/x-ndjson" };
  const lines = (more: object = {}): Promise<RawResponse> =>
    post(url, "/v1/events", `${JSON.stringify(event)}\n{"amount":"1"}\n[`, { ...ndjson, ...more });
  await ask(events, 200, post(url, "/v1/events", [event], key));
  await ask(events, 200, post(url, "/v1/events", [event], key));
  await ask(events, reused, post(url, "/v1/events", [event, event], key));
  const told = await ask(events, 200, lines());
  expect(told.json()).toMatchObject({ duplicates: 1, rejected: 2 });
  await ask(events, 400, lines({ "Content-Encoding": "gzip" }));
  await ask(events, 400, lines({ "Content-Digest": `sha-256=:${"A".repeat(43)}=:` }));
  await ask(events, 400, lines({ "Idempotency-Key": '"' }));
  await ask(events, 401, lines({ Authorization: "x" }));
  await ask(events, 415, lines({ "Content-Type": "text/plain" }));
  await ask(events, 415, lines({ "Content-Encoding": "compress" }));

  const revenue = "GET /v1/revenue/{merchant_id}";
  const days = "?from=2026-01-31&to=2026-01-31";
  const found = await ask(revenue, 200, get(url, `/v1/revenue/m_1${days}`));
  expect(found.json()["days"]).not.toEqual([]);
  await ask(revenue, 200, get(url, "/v1/revenue/m_2"));
  await ask(revenue, 400, get(url, "/v1/revenue/m_1?from=yesterday"));
  await ask(revenue, 401, get(url, "/v1/revenue/m_1", {}));
  const recompute = "POST /v1/revenue/recompute";
  const path = "/v1/revenue/recompute";
  const range = { from: "2026-01-01", to: "2026-01-31" };
  const recomputeKey = { "Idempotency-Key": newKey() };
  await ask(recompute, 200, post(url, path, range, recomputeKey));
  await ask(recompute, 200, post(url, path, range, recomputeKey));
  await ask(recompute, reused, post(url, path, { ...range, merchant_id: "m_1" }, recomputeKey));
  await ask(recompute, 400, post(url, path, {}));
  await ask(recompute, 401, post(url, path, range, { Authorization: "x" }));
  await ask(recompute, 413, post(url, path, "x".repeat(200_000)));
  await ask(recompute, 415, post(url, path, "x", { "Content-Type": "a/b" }));
  const merchant = "PUT /v1/merchants/{merchant_id}";
  const put = (body: string, headers: Record<string, string> = accountA): Promise<RawResponse> => {
    const all = { "Content-Type": "application/json", "Content-Length": String(body.length) };
    const entries = Object.entries({ ...all, ...headers });
    return send(url, "/v1/merchants/m_1", { method: "PUT", headers: entries, body });
  };
  await ask(merchant, 200, put('{"time_zone":"Europe/Berlin"}'));
  await ask(merchant, 400, put('{"time_zone":"Mars/Base"}'));
  await ask(merchant, 401, put("{}", {}));
  await ask(merchant, 413, put("x".repeat(200_000)));
  await ask(merchant, 415, put("x", { ...accountA, "Content-Type": "a/b" }));
  expect(faults).toEqual([]);
});
