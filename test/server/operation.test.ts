/** What operators see: probes, metrics and logs. */
import { accountA, charge, get, newKey, order, post, send, useApi } from "./api.js";
import { waitFor } from "../support/wait-for.js";

const api = useApi();

test("/healthz answers without authentication", async () => {
  const response = await get(api.url, "/healthz", {});
  expect([response.status, response.json()]).toEqual([200, { status: "ok" }]);
});

test("/readyz reports Postgres and Redis", async () => {
  const response = await waitFor(async () => {
    const found = await get(api.url, "/readyz", {});
    return found.json()["redis"] === "ok" ? found : undefined;
  });
  expect([response.status, response.json()]).toEqual([
    200,
    { status: "ready", postgres: "ok", redis: "ok" },
  ]);
});

test("/readyz does not need Redis", async () => {
  const without = await api.another();
  expect((await get(without.url, "/readyz", {})).json()).toMatchObject({ redis: "off" });
  // Port 9 is for discarding what is sent there, and nobody listens on it.
  const lost = await api.another({ REDIS_URL: "redis://127.0.0.1:9" });
  const response = await get(lost.url, "/readyz", {});
  expect([response.status, response.json()]).toEqual([
    200,
    { status: "ready", postgres: "ok", redis: "down" },
  ]);
  const made = await post(lost.url, "/v1/charges", charge, { "Idempotency-Key": newKey() });
  expect(made.status).toBe(201);
});

test("/readyz says so when tables are missing, and the process is healthy all the same", async () => {
  await api.pool.query("alter table orders rename to orders_away");
  try {
    const response = await get(api.url, "/readyz", {});
    expect(response.status).toBe(503);
    expect(response.json()).toMatchObject({ code: "not_ready", retryable: true });
    expect((await get(api.url, "/healthz", {})).status).toBe(200);
  } finally {
    await api.pool.query("alter table orders_away rename to orders");
  }
});

test("/readyz does not wait behind handlers that hold every connection", async () => {
  const server = await api.another();
  // As many as the pool has, and for longer than a probe waits.
  const slow = Array.from({ length: 20 }, () =>
    post(server.url, "/v1/charges", { ...charge, source: "tok_slow_3000" }),
  );
  await waitFor(async () => {
    const { rows } = await api.pool.query<{ count: number }>(
      `select count(*)::int as count from pg_stat_activity
        where datname = current_database() and state = 'idle in transaction'`,
    );
    return rows[0]?.count === 20;
  });
  expect((await get(server.url, "/readyz", {})).status).toBe(200);
  await Promise.all(slow);
});

test("/metrics counts requests by route and what became of keys, and the pool", async () => {
  const key = { "Idempotency-Key": newKey() };
  const server = await api.another();
  await post(server.url, "/v1/charges", charge, key);
  await post(server.url, "/v1/charges", charge, key);
  await post(server.url, "/v1/charges", { ...charge, amount: 1 }, key);
  await send(server.url, "/nobody/knows/this", { method: "GET" });
  await get(server.url, "/v1/charges/ch_0123456789abcdef01234567");
  const response = await get(server.url, "/metrics", {});
  expect(response.headers["content-type"]).toMatch(/^text\/plain; version=0\.0\.4/);
  const text = response.bytes.toString();
  for (const line of [
    'http_request_duration_seconds_count{method="POST",route="/v1/charges",status="201"} 2',
    'http_request_duration_seconds_count{method="POST",route="/v1/charges",status="422"} 1',
    'http_request_duration_seconds_count{method="GET",route="/v1/charges/:id",status="404"} 1',
    'http_request_duration_seconds_count{method="GET",route="other",status="404"} 1',
    'oncekey_events_total{type="claimed",detail="transaction"} 1',
    'oncekey_events_total{type="completed",detail="transaction"} 1',
    'oncekey_events_total{type="replayed",detail=""} 1',
    'oncekey_events_total{type="refused",detail="key_reused"} 1',
    'oncekey_postgres_pool_connections{state="waiting"} 0',
  ])
    expect(text).toContain(line);
  expect(text).not.toContain("nobody");
});

test("logs a line per request, with nothing of a key, a body, a query or a credential", async () => {
  const secrets = ["sk_test_a", "sk_wrong_77", "tok_hush_77", "hush description", "hush-key-77"];
  const key = { "Idempotency-Key": `${newKey()}-hush-key-77` };
  const body = { ...charge, source: "tok_hush_77", description: "hush description" };
  const asked = [
    await post(api.url, "/v1/charges", body, key),
    await post(api.url, "/v1/charges", body, key),
    await post(api.url, "/v1/charges", { ...body, amount: 2 }, key),
    await post(api.url, "/v1/charges", `{"source": tok_hush_77`, key),
    await post(api.url, "/v1/orders", { ...order, customer: "tok_hush_77" }, key),
    await get(api.url, "/v1/charges?api_key=tok_hush_77"),
    await get(api.url, "/v1/charges", { Authorization: "Bearer sk_wrong_77" }),
    await send(api.url, "/v1/charges", {
      method: "GET",
      headers: [["Authorization", `Basic ${Buffer.from("sk_wrong_77:").toString("base64")}`]],
    }),
  ];
  // An error of Postgres that quotes the row it was given. NOT VALID, since rows of above contradict the constraint.
  await api.pool.query(
    "alter table charges add constraint hush check (source <> 'tok_hush_77') not valid",
  );
  try {
    const failed = await post(api.url, "/v1/charges", body, { "Idempotency-Key": newKey() });
    expect([failed.status, failed.json()["code"]]).toEqual([500, "internal_error"]);
    asked.push(failed);
  } finally {
    await api.pool.query("alter table charges drop constraint hush");
  }
  const ids = asked.map(({ headers }) => String(headers["request-id"]));
  await waitFor(() => ids.every((id) => api.log.includes(id)));
  const lines = api.log
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => JSON.parse(line) as { level: number; req?: { id: string; path: string } });
  const mine = lines.filter(({ req }) => req !== undefined && ids.includes(req.id));
  expect(mine).toHaveLength(asked.length);
  expect(mine.every(({ req }) => !req?.path.includes("?"))).toBe(true);
  const failure = mine.find(({ req }) => req?.id === ids.at(-1));
  expect(failure).toMatchObject({
    level: 50,
    res: { status: 500 },
    err: { code: "23514", table: "charges", constraint: "hush" },
  });
  for (const secret of [
    ...secrets,
    Buffer.from("sk_wrong_77:").toString("base64"),
    api.databaseUrl,
  ])
    expect(api.log).not.toContain(secret);
});

test("a failed statement rolls back, gives the key back and is told as a failure of the server", async () => {
  const key = { "Idempotency-Key": newKey() };
  await api.pool.query("alter table charges rename to charges_away");
  try {
    const failed = await post(api.url, "/v1/charges", charge, key);
    expect(failed.status).toBe(500);
    expect(failed.json()).toMatchObject({ code: "internal_error", retryable: true });
    expect(failed.bytes.toString()).not.toContain("charges_away");
  } finally {
    await api.pool.query("alter table charges_away rename to charges");
  }
  const made = await post(api.url, "/v1/charges", charge, { ...accountA, ...key });
  expect(made.status).toBe(201);
});
