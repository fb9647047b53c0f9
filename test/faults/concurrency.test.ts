/** DESIGN, section 2, invariants 1 and 2, where equal requests come all at once and to two processes. */
import { type Answer, newKey, post } from "./client.js";
import { useBench } from "./bench.js";

const bench = useBench();

const bodies = {
  "/v1/charges": { amount: 2000, currency: "eur", source: "tok_visa" },
  "/v1/orders": { currency: "eur", items: [{ sku: "mug", quantity: 1, unit_amount: 900 }] },
};

async function rowsOf(path: keyof typeof bodies, key: string): Promise<number> {
  const table = path === "/v1/charges" ? "charges" : "orders";
  const { rows } = await bench.pool.query<{ count: number }>(
    `SELECT count(*)::int AS count FROM ${table} WHERE idempotency_key = $1`,
    [key],
  );
  return rows[0]?.count ?? 0;
}

test.each(["/v1/charges", "/v1/orders"] as const)(
  "fifty equal requests at once to two servers: %s happens once",
  async (path) => {
    const servers = [await bench.server(), await bench.server()];
    // Several rounds: which request comes first, and how far the others are then, differs from round to round.
    for (let round = 0; round < 5; round += 1) {
      const key = newKey();
      const call = { key, body: bodies[path] };
      const answers = await Promise.all(
        Array.from({ length: 50 }, (_, index) => post(servers[index % 2]!.url, path, call)),
      );
      const made = answers.filter((answer) => answer.status === 201);
      const refused = answers.filter((answer) => answer.status !== 201);
      expect(made.length).toBeGreaterThanOrEqual(1);
      expect(refused.map((answer) => `${answer.status} ${answer.code}`)).toEqual(
        refused.map(() => "409 in_progress"),
      );
      expect(new Set(refused.map((answer) => answer.headers["retry-after"]))).toEqual(
        new Set(refused.length === 0 ? [] : ["1"]),
      );
      const first = made.find((answer) => answer.headers["idempotent-replayed"] === undefined);
      expect(made.filter((answer) => answer !== first).every(isReplay)).toBe(true);
      expect(new Set(made.map((answer) => answer.bytes.toString("hex"))).size).toBe(1);
      expect(await rowsOf(path, key)).toBe(1);

      for (const { url } of servers) {
        const replayed = await post(url, path, call);
        expect([replayed.status, isReplay(replayed)]).toEqual([201, true]);
        expect(replayed.bytes.equals(first!.bytes)).toBe(true);
      }
      expect(await rowsOf(path, key)).toBe(1);
    }
  },
);

function isReplay(answer: Answer): boolean {
  return answer.headers["idempotent-replayed"] === "true";
}
