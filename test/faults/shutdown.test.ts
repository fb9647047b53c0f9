/** SIGTERM with requests in flight. DESIGN, section 3: stop accepting, finish what runs, complete it, then exit. */
import { waitFor } from "../support/wait-for.js";
import { useBench } from "./bench.js";
import { newKey, post } from "./client.js";

const bench = useBench();

const bodies = {
  "/v1/charges": { amount: 2000, currency: "eur", source: "tok_slow_1000" },
  "/v1/orders": {
    currency: "eur",
    customer: "slow_1000",
    items: [{ sku: "mug", quantity: 1, unit_amount: 900 }],
  },
};
type Path = keyof typeof bodies;
const paths = Object.keys(bodies) as Path[];

test("what runs is finished and stored, nothing new is taken, and the exit code is 0", async () => {
  const server = await bench.server();
  const calls = paths.flatMap((path) => [1, 2, 3].map(() => ({ path, key: newKey() })));
  const answers = calls.map(({ path, key }) => post(server.url, path, { key, body: bodies[path] }));
  // One more client, that hangs up: its handler is not to be cut off either.
  const leaving = new AbortController();
  // It runs longer than the others, so that no connection is open at its end.
  const gone = { key: newKey(), body: { ...bodies["/v1/orders"], customer: "slow_2000" } };
  const call = { ...gone, signal: leaving.signal };
  const lost = post(server.url, "/v1/orders", call).catch((error: Error) => error.name);
  // The orders are placed, and the charges are in open transactions.
  await waitFor(async () => {
    const { rows } = await bench.pool.query<{ orders: number; charges: number }>(
      `SELECT (SELECT count(*)::int FROM orders) AS orders, (SELECT count(*)::int FROM pg_stat_activity
          WHERE datname = current_database() AND state = 'idle in transaction') AS charges`,
    );
    return rows[0]?.orders === 4 && rows[0].charges === 3;
  });
  leaving.abort();
  expect(await lost).toBe("AbortError");
  server.signal("SIGTERM");
  await server.waitForOutput(/SIGTERM: finishing what runs/);
  await waitFor(async () => {
    const refused = await post(server.url, "/v1/charges", {
      key: newKey(),
      body: bodies["/v1/charges"],
    }).catch((error: unknown) => error);
    return (refused as { code?: unknown }).code === "ECONNREFUSED";
  });
  const made = await Promise.all(answers);
  expect(made.map((answer) => answer.status)).toEqual(calls.map(() => 201));
  expect(await server.exited()).toBe(0);
  const { rows } = await bench.pool.query<{ state: string; count: number }>(
    "SELECT state, count(*)::int AS count FROM idempotency_keys GROUP BY state",
  );
  expect(rows).toEqual([{ state: "completed", count: 7 }]);

  const next = await bench.server();
  for (const [index, { path, key }] of calls.entries()) {
    const replayed = await post(next.url, path, { key, body: bodies[path] });
    expect(replayed.headers["idempotent-replayed"]).toBe("true");
    expect(replayed.bytes.equals(made[index]!.bytes)).toBe(true);
  }
  const replayed = await post(next.url, "/v1/orders", gone);
  expect([replayed.status, replayed.headers["idempotent-replayed"]]).toEqual([201, "true"]);
});
