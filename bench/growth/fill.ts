/**
 * Tables of a given size. Owns: rows as a payments API leaves them behind, made by the server itself, and what they weigh.
 */
import type pg from "pg";

export type KeyKind = "random" | "ordered";

export interface Filling {
  readonly rows: number;
  /** `random`: UUID v4. `ordered`: UUID v7, whose first 48 bits are the time. */
  readonly keys: KeyKind;
  readonly bodyBytes: number;
}

/** Scopes in use at once: tenants of one installation. */
export const scopes = 1_000;
/** Rows of one statement, so that a large table grows by several short transactions. */
const chunk = 250_000;

/** A response body of exactly so many bytes: JSON whose ids are random and whose words repeat, as in real ones. */
const bodySql = `SELECT s AS slot, substr(convert_to('{"id":"ch_' || md5(random()::text) || '","object":"list","data":[' ||
    string_agg('{"id":"li_' || md5(random()::text || i) || '","object":"line_item","amount":' || (random() * 1e6)::int ||
      ',"currency":"usd","description":"One more thing","metadata":{"order":"' || substr(md5(random()::text || i), 1, 12) ||
      '"}},', ''), 'UTF8'), 1, $1::int) AS body
  FROM generate_series(0, 255) s, generate_series(1, $1::int / 150 + 2) i GROUP BY s`;

const keySql: Readonly<Record<KeyKind, string>> = {
  random: "gen_random_uuid()::text",
  ordered: `regexp_replace(lpad(to_hex((extract(epoch FROM t) * 1000)::bigint), 12, '0') || '7' ||
    substr(md5(n::text), 1, 19), '(.{8})(.{4})(.{4})(.{4})(.{12})', '\\1-\\2-\\3-\\4-\\5')`,
};

/** Fills the tables of a schema with completed keys whose windows are open, and leaves them vacuumed and analysed. */
export async function fill(pool: pg.Pool, schema: string, filling: Filling): Promise<void> {
  const client = await pool.connect();
  try {
    await client.query("SET synchronous_commit = off");
    await client.query("DROP TABLE IF EXISTS pg_temp.bodies");
    // Uncompressed, or they would be copied as they are, whatever compression the filled table is to use.
    await client.query("CREATE TEMP TABLE bodies (slot int, body bytea)");
    await client.query("ALTER TABLE bodies ALTER COLUMN body SET STORAGE EXTERNAL");
    await client.query(`INSERT INTO bodies ${bodySql}`, [filling.bodyBytes]);
    for (let from = 1; from <= filling.rows; from += chunk)
      await client.query(insertSql(schema, filling.keys), [
        from,
        Math.min(from + chunk - 1, filling.rows),
      ]);
    await client.query(`VACUUM (ANALYZE) ${schema}.idempotency_keys`);
    await client.query("CHECKPOINT");
  } finally {
    client.release(true);
  }
}

function insertSql(schema: string, keys: KeyKind): string {
  return `INSERT INTO ${schema}.idempotency_keys (scope, key, state, guarantee, claim_id, token, fingerprint, field_hashes,
      method, path, request_id, status, head, body, created_at, completed_at, replay_until, dedupe_until, reap_at)
    SELECT 'acct_' || n % ${scopes}, ${keySql[keys]}, 'completed', 'at_most_once', gen_random_uuid(), n,
      'v1::' || rtrim(encode(sha256(n::text::bytea), 'base64'), '='),
      '{"method":"3f9a02c1","path":"11ab90de","body.amount":"9a0c41f2","body.currency":"51cc07ab","body.source":"8b1d77fe"}',
      'POST', '/v1/charges', 'req_' || left(md5(n::text), 24), 201,
      '{"headers":[["Content-Type","application/json; charset=utf-8"],["ETag","W/\\"138-Wc6GnhpHPl1ppzvPrxOBQ4o\\""]]}',
      b.body, t, t, t + interval '24 hours', t + interval '30 days', t + interval '24 hours'
    FROM generate_series($1::int, $2::int) n JOIN pg_temp.bodies b ON b.slot = n % 256,
      LATERAL (SELECT now() - interval '1 hour' + n * interval '0.2 milliseconds' AS t) w`;
}

export interface Weight {
  readonly rows: number;
  /** Bytes a key: of rows, of what is stored out of line, of the primary key, of all other indexes. */
  readonly heap: number;
  readonly toast: number;
  readonly primaryKey: number;
  readonly otherIndexes: number;
  readonly total: number;
}

export async function weigh(pool: pg.Pool, schema: string): Promise<Weight> {
  const { rows } = await pool.query<Record<string, number>>(
    `SELECT greatest((SELECT count(*) FROM ${schema}.idempotency_keys), 1)::float8 AS rows,
       sum(pg_relation_size(c.oid))::float8 AS heap,
       sum(coalesce(pg_total_relation_size(nullif(c.reltoastrelid, 0)), 0))::float8 AS toast,
       sum((SELECT sum(pg_relation_size(i.indexrelid)) FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary))::float8 AS pkey,
       sum(pg_indexes_size(c.oid))::float8 AS indexes
     FROM pg_class c
     WHERE c.relnamespace = '${schema}'::regnamespace AND c.relkind = 'r' AND c.relname LIKE 'idempotency_keys%'`,
  );
  const { rows: count = 1, heap = 0, toast = 0, pkey = 0, indexes = 0 } = rows[0] ?? {};
  const each = (bytes: number): number => Math.round(bytes / count);
  return {
    rows: count,
    heap: each(heap),
    toast: each(toast),
    primaryKey: each(pkey),
    otherIndexes: each(indexes - pkey),
    total: each(heap + toast + indexes),
  };
}
