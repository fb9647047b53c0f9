/**
 * How the statements of every request find their rows: by the primary key, whatever the planner knows of the table. A claim
 * that reads the table would grow slower with every key that is stored.
 */
import { randomUUID } from "node:crypto";

import type pg from "pg";

import { openConnections } from "../../src/stores/connections.js";
import { claimValues } from "../../src/stores/postgres-claims.js";
import { lockHash } from "../../src/stores/rows.js";
import { statementsFor } from "../../src/stores/sql-text.js";
import { leaseMs, newRequest, useMigratedDatabase, windows } from "./open-stores.js";

const database = useMigratedDatabase();
const statements = statementsFor("public");
const batched = ["claim", "find", "complete", "release", "heartbeat"] as const;
type Batched = (typeof batched)[number];

/** Where a sequential scan looked cheapest to the planner: rows as small as they get, in a table that one batch half covers. */
const rows = 20_000;

async function fill(pool: pg.Pool, count: number): Promise<void> {
  await pool.query(
    `INSERT INTO idempotency_keys (scope, key, state, guarantee, claim_id, token, fingerprint, field_hashes, method, path,
         request_id, status, head, body, created_at, completed_at, replay_until, dedupe_until, reap_at)
       SELECT 'acct_' || n % 3, 'done-' || lpad(n::text, 9, '0'), 'completed', 'at_most_once', gen_random_uuid(), n, 'v1::x', '{}',
         'POST', '/', 'r', 201, '{"headers":[]}', '\\x7b7d', now(), now(), t, t + interval '1 day', t
       FROM generate_series(1, $1) n, LATERAL (SELECT now() + interval '1 hour' AS t) w`,
    [count],
  );
}

/** Half of the keys exist. */
function valuesOf(name: Batched, size: number): unknown[] {
  const requests = Array.from({ length: size }, (_, index) =>
    newRequest({
      scope: `acct_${(index * 2) % 3}`,
      key: `${index % 2 ? "done" : "none"}-${`${index * 2}`.padStart(9, "0")}`,
    }),
  );
  const where = [requests.map(({ scope }) => scope), requests.map(({ key }) => key)];
  const held = [...where, requests.map(() => randomUUID()), requests.map((_, index) => index)];
  const hashes = requests.map((request) => lockHash("public", request));
  const all = <T>(value: T): T[] => requests.map(() => value);
  switch (name) {
    case "claim":
      return claimValues("public", requests);
    case "find":
      return where;
    case "complete":
      return [
        ...held,
        all(false),
        all(201),
        all('{"headers":[]}'),
        all(Buffer.from("{}")),
        all(windows.replayWindowMs),
        all(windows.dedupeWindowMs),
        hashes,
        "250ms",
      ];
    case "release":
      return [...held, hashes, "250ms"];
    case "heartbeat":
      return [...held, leaseMs];
    default:
      return name satisfies never;
  }
}

interface Node {
  readonly "Node Type": string;
  readonly "Relation Name"?: string;
  readonly "Index Name"?: string;
  readonly "Index Cond"?: string;
  readonly Plans?: readonly Node[];
}

/** How a plan reads the rows of keys: the index and what bounds it, or the kind of scan. */
function lookUps(node: Node): string[] {
  const own =
    node["Node Type"] !== "ModifyTable" &&
    (node["Relation Name"] === "idempotency_keys" || node["Node Type"] === "Bitmap Index Scan");
  const found = `${node["Index Name"] ?? node["Node Type"]} ${node["Index Cond"] ?? "unbounded"}`;
  return [...(own ? [found] : []), ...(node.Plans ?? []).flatMap(lookUps)];
}

/** The plan that the store's own connections make of a statement, once for batches of any size. */
async function planOf(name: Batched): Promise<string[]> {
  const connections = openConnections(database.pool, {
    max: 1,
    timeoutMs: 10_000,
    prepare: true,
    epochSql: statements.epoch.text,
    onEpoch: () => undefined,
    isEpochKnown: () => true,
  });
  try {
    const text = statements[name].text;
    const values = valuesOf(name, 1).map(() => "NULL");
    const result = await connections.withClient(async (client) => {
      await client.query(`PREPARE ${name} AS ${text}`);
      return client.query(`EXPLAIN (FORMAT JSON) EXECUTE ${name} (${values.join(", ")})`);
    });
    const [{ Plan: plan }] = (result.rows[0] as { "QUERY PLAN": [{ Plan: Node }] })["QUERY PLAN"];
    return lookUps(plan).filter((found) => found !== "Bitmap Heap Scan unbounded");
  } finally {
    await connections.close();
  }
}

/** How batches find their rows, one line a way, without the way that is meant. */
async function otherWays(): Promise<string[]> {
  const found: string[] = [];
  for (const name of batched) {
    const ways = await planOf(name);
    if (ways.length === 0) found.push(`${name}: nothing was recognised`);
    for (const way of ways) if (!byKey.test(way)) found.push(`${name}: ${way}`);
  }
  return found;
}

const byKey = /^idempotency_keys_pkey \(\(.*scope = .*key = /;

test.each<[string, (pool: pg.Pool) => Promise<unknown>]>([
  ["never looked at", (pool) => fill(pool, rows)],
  [
    "last looked at when it was empty",
    async (pool) => {
      await pool.query("VACUUM (ANALYZE) idempotency_keys");
      await fill(pool, rows);
    },
  ],
  [
    "last looked at when it was small",
    async (pool) => {
      await fill(pool, 50);
      await pool.query("VACUUM (ANALYZE) idempotency_keys");
      await pool.query("UPDATE idempotency_keys SET key = 'old-' || key");
      await fill(pool, rows);
    },
  ],
  [
    "just looked at",
    async (pool) => {
      await fill(pool, rows);
      await pool.query("VACUUM (ANALYZE) idempotency_keys");
    },
  ],
  [
    "almost emptied since",
    async (pool) => {
      await fill(pool, rows);
      await pool.query("VACUUM (ANALYZE) idempotency_keys");
      await pool.query("DELETE FROM idempotency_keys WHERE token > 100");
    },
  ],
  [
    "vacuumed after it was almost emptied",
    async (pool) => {
      await fill(pool, rows);
      await pool.query("DELETE FROM idempotency_keys WHERE token < 19900");
      await pool.query("VACUUM (ANALYZE) idempotency_keys");
    },
  ],
])("of a table %s, every batch takes the primary key", async (_, prepare) => {
  // Nobody analyses or vacuums it behind the test's back.
  await database.pool.query("ALTER TABLE idempotency_keys SET (autovacuum_enabled = false)");
  await database.pool.query("TRUNCATE idempotency_keys CASCADE");
  await prepare(database.pool);
  expect(await otherWays()).toEqual([]);
});

test("the same holds of a transaction that a pooler takes anywhere", async () => {
  await database.pool.query("TRUNCATE idempotency_keys CASCADE");
  await fill(database.pool, rows);
  const connections = openConnections(database.pool, {
    max: 1,
    timeoutMs: 10_000,
    prepare: false,
    pooler: "transaction",
    epochSql: statements.epoch.text,
    onEpoch: () => undefined,
    isEpochKnown: () => true,
  });
  const text = `EXPLAIN ${statements.claim.text}`;
  const plan = await connections.run({ name: "", text }, valuesOf("claim", 200));
  await connections.close();
  expect(JSON.stringify(plan)).not.toContain("Seq Scan on idempotency_keys");
});
