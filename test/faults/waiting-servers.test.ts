/** `Prefer: wait` at two real servers: what a client of the payments API sees. */
import { redisUrl } from "../support/servers.js";
import { waitFor } from "../support/wait-for.js";
import { useBench } from "./bench.js";
import { newKey, post } from "./client.js";

const bench = useBench();

const slow = {
  "/v1/charges": { amount: 2000, currency: "eur", source: "tok_slow_1500" },
  "/v1/orders": {
    currency: "eur",
    customer: "slow_1500",
    items: [{ sku: "mug", quantity: 1, unit_amount: 900 }],
  },
};

/** The key's claim: a row, or the lock of a transaction that has not committed. */
async function isClaimed(key: string): Promise<boolean> {
  const { rows } = await bench.pool.query(
    `SELECT FROM idempotency_keys WHERE key = $1
     UNION ALL
     SELECT FROM pg_locks l JOIN pg_database d ON d.oid = l.database
      WHERE l.locktype = 'advisory' AND l.mode = 'ExclusiveLock' AND d.datname = current_database()`,
    [key],
  );
  return rows.length > 0;
}

describe.each(["with", "without"])("%s Redis", (how) => {
  const env = (): Record<string, string> => (how === "with" ? { REDIS_URL: redisUrl() } : {});

  test("a duplicate at another server is answered as it asked", async () => {
    const [one, two] = [await bench.server(env()), await bench.server(env())];
    for (const path of ["/v1/charges", "/v1/orders"] as const) {
      const call = { key: newKey(), body: slow[path] };
      const first = post(one.url, path, call);
      await waitFor(() => isClaimed(call.key));
      const prefer = (wait: string) => ({ ...call, headers: { Prefer: wait } });
      const [waited, impatient, silent] = await Promise.all([
        post(two.url, path, prefer("respond-async, wait=20")),
        post(two.url, path, prefer("wait=0")),
        post(two.url, path, call),
      ]);
      const { status, bytes } = await first;
      expect(status).toBe(201);
      expect([waited.status, waited.bytes.toString()]).toEqual([201, bytes.toString()]);
      expect(waited.headers["idempotent-replayed"]).toBe("true");
      expect(waited.headers["preference-applied"]).toBe("wait=20");
      expect([impatient.code, silent.code]).toEqual(["in_progress", "in_progress"]);
      expect(impatient.headers["preference-applied"]).toBe("wait=0");
      expect(silent.headers["preference-applied"]).toBeUndefined();
    }
  });
});

test("a wait that is too short ends with 409, and one that is too long is shortened", async () => {
  const server = await bench.server();
  const path = "/v1/charges";
  const call = { key: newKey(), body: { ...slow[path], source: "tok_slow_2500" } };
  const first = post(server.url, path, call);
  await waitFor(() => isClaimed(call.key));
  const short = await post(server.url, path, { ...call, headers: { Prefer: "wait=1" } });
  expect([short.status, short.code]).toEqual([409, "in_progress"]);
  expect(short.headers["preference-applied"]).toBe("wait=1");
  const long = await post(server.url, path, { ...call, headers: { Prefer: 'Wait="3600"' } });
  expect(long.headers["preference-applied"]).toBe("wait=30");
  expect(long.bytes.toString()).toBe((await first).bytes.toString());
});
