/** The tables that contenders write to. */
import { Client } from "pg";

/** Makes them, and returns the version of the server. */
export async function prepare(databaseUrl: string): Promise<string> {
  const client = new Client({ connectionString: databaseUrl });
  await client.connect();
  await client.query(
    "CREATE TABLE bench_charges (id uuid PRIMARY KEY, amount bigint NOT NULL, currency text NOT NULL, description text)",
  );
  await client.query(
    "CREATE TABLE bench_keys (key text PRIMARY KEY, status smallint NOT NULL, body text NOT NULL)",
  );
  await client.query(
    "CREATE TABLE bench_express_idempotency (key text PRIMARY KEY, resource jsonb NOT NULL)",
  );
  const { rows } = await client.query<{ server_version: string }>("SHOW server_version");
  await client.end();
  return rows[0]?.server_version ?? "";
}
