/**
 * A claim was sent to a backend that hung, and its request was answered 503 `store_unavailable`: "the same key can be sent
 * again". The claim was then looked for once, on another connection, was not there yet, and was forgotten. When the backend
 * went on, it inserted the claim that nobody held any more: 409 `in_progress` until its lease was over, and 409
 * `outcome_unknown` for ever after, for work that never began.
 */
import { type PostgresServer, startPostgres } from "../support/postgres-server.js";
import { waitFor } from "../support/wait-for.js";
import { useBench } from "../faults/bench.js";
import { newKey, outcome, post, retry } from "../faults/client.js";

let postgres: PostgresServer;
beforeAll(async () => {
  // Of its own: one of its backends is frozen.
  postgres = await startPostgres();
});
// A test that fails must not leave its frozen backend behind.
afterEach(() => postgres.thaw());
const bench = useBench(() => postgres.url);

test("a claim that arrives after its request was answered 503 is given back, and the retry runs", async () => {
  const proxy = await bench.proxy();
  const shop = await bench.shop({
    databaseUrl: proxy.via(bench.databaseUrl),
    storeTimeoutMs: 1_500,
    // Without the near cache nothing has asked for the epoch before, so that the look needs a new connection.
    idempotency: { claimTimeoutMs: 1_000, leaseMs: 8_000, heartbeatMs: 50, nearCache: false },
  });
  expect((await retry(shop.url, "/plain", { key: newKey() })).status).toBe(201);
  const { rows } = await bench.pool.query<{ pid: number }>(
    `SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND query LIKE '%lock_hash%'
        AND pid <> pg_backend_pid()`,
  );
  expect(rows).toHaveLength(1);
  const { pid } = rows[0]!;
  const openBefore = proxy.open;
  process.kill(pid, "SIGSTOP");

  const key = newKey();
  expect(outcome(await post(shop.url, "/plain", { key }))).toEqual([503, "store_unavailable"]);
  // It was looked for on a new connection, and the one that hung was given up.
  await waitFor(() => proxy.open > openBefore);
  await waitFor(() => proxy.open <= openBefore);
  process.kill(pid, "SIGCONT");
  await waitFor(async () => {
    const alive = await bench.pool.query("SELECT 1 FROM pg_stat_activity WHERE pid = $1", [pid]);
    return alive.rowCount === 0;
  });

  const made = await retry(shop.url, "/plain", { key });
  expect([...outcome(made), made.headers["idempotent-replayed"]]).toEqual([
    201,
    undefined,
    undefined,
  ]);
  expect(bench.gate.runs(key)).toBe(1);
});
