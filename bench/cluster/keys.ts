/** What a key costs Postgres beside CPU: bytes of WAL and of disk, by the size of its response. */
import { randomBytes, randomUUID } from "node:crypto";
import { Client, Pool } from "pg";
import { migrate, postgresStore } from "../../src/stores/postgres.js";

const day = 86_400_000;
const sizes = [300, 2_000] as const;
const keysEach = 50_000;
const atOnce = 400;

export interface KeyCost {
  readonly bodyBytes: number;
  readonly keys: number;
  readonly walBytes: number;
  readonly tableBytes: number;
  readonly indexBytes: number;
}

export async function costOfKeys(client: Client, databaseUrl: string): Promise<KeyCost[]> {
  const costs: KeyCost[] = [];
  for (const bodyBytes of sizes) {
    const schema = `cost_${bodyBytes}`;
    const pool = new Pool({ connectionString: databaseUrl, max: 2 });
    await migrate({ pool, schema });
    const store = postgresStore({ pool, schema });
    const table = `${schema}.idempotency_keys`;
    // So that pages written for the first time since a checkpoint are counted as they are on a busy server: seldom.
    await client.query("CHECKPOINT");
    const before = await walPosition(client);
    let left = keysEach;
    const work = async (): Promise<void> => {
      while (left-- > 0) await claimAndComplete(store, bodyBytes);
    };
    await Promise.all(Array.from({ length: atOnce }, work));
    const walBytes = (await walPosition(client)) - before;
    const { rows } = await client.query<{ data: string; indexes: string }>(
      `SELECT pg_table_size('${table}') AS data, pg_indexes_size('${table}') AS indexes`,
    );
    costs.push({
      bodyBytes,
      keys: keysEach,
      walBytes: Math.round(walBytes / keysEach),
      tableBytes: Math.round(Number(rows[0]?.data) / keysEach),
      indexBytes: Math.round(Number(rows[0]?.indexes) / keysEach),
    });
    await store.close?.();
    await pool.end();
  }
  return costs;
}

async function claimAndComplete(
  store: ReturnType<typeof postgresStore>,
  bodyBytes: number,
): Promise<void> {
  const ref = { scope: "acct_1HZX3K8V9Q2W:test", key: randomUUID() };
  const claimId = randomUUID();
  const fingerprint = randomBytes(32).toString("hex");
  const answer = await store.claim({
    ...ref,
    claimId,
    guarantee: "at_most_once",
    fingerprint: {
      text: fingerprint,
      fieldHashes: '{"body.amount":"0f3a9c1e","body.currency":"77b1c2d3","body.source":"90ab12cd"}',
    },
    method: "POST",
    path: "/v1/charges",
    requestId: `req_${randomBytes(12).toString("hex")}`,
    leaseMs: 30_000,
  });
  if (answer.kind !== "claimed") throw new Error(answer.kind);
  // Half of it compresses away, as JSON does.
  const body = Buffer.from(
    randomBytes(Math.ceil(bodyBytes / 2))
      .toString("hex")
      .slice(0, bodyBytes),
  );
  await store.complete(answer.claim, {
    response: {
      status: 201,
      headers: [["Content-Type", "application/json; charset=utf-8"]],
      body,
    },
    replayWindowMs: day,
    dedupeWindowMs: 30 * day,
  });
}

async function walPosition(client: Client): Promise<number> {
  const { rows } = await client.query<{ bytes: string }>(
    "SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn AS bytes",
  );
  return Number(rows[0]?.bytes);
}
