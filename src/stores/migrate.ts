/**
 * Schema migrations. Owns: applying the embedded files once each, in order, however many processes try at the same time.
 * Must never run on import; `oncekey migrate` and the user call it.
 */
import type { Pool } from "pg";
import { IdempotencyError } from "../core/errors.js";
import { migrations } from "../generated/scripts.js";
import { asSchemaError } from "./connections.js";
import { ownRows } from "./own-types.js";
import { checkSchemaName, quoteIdentifier } from "./sql-text.js";

export interface MigrateOptions {
  readonly pool: Pool;
  /** Schema that holds the tables; created when missing. Default `public`. */
  readonly schema?: string;
  /** Begin a new epoch: every cached response of the past becomes a miss. For a database restored from a dump. */
  readonly newEpoch?: boolean;
}

/** Held while migrating, so that several processes take turns. Any constant does; this one spells "oncekey". */
const migrationLock = "31359429413037433";

/**
 * Brings the schema up to this version and returns the names of the files that were applied now. Safe to run from several
 * processes at once and again at every deploy; either all missing files are applied, with their ledger rows, or none.
 * Files of a newer version are left alone: each is readable by the minor version before it (rolling deploys).
 */
export async function migrate(options: MigrateOptions): Promise<readonly string[]> {
  const schema = checkSchemaName(options.schema ?? "public");
  const client = await options.pool.connect();
  const onError = (): void => undefined;
  client.on("error", onError);
  let failed = true;
  try {
    // Each statement sees what another process committed while this one waited for its turn, whatever the default is.
    await client.query("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE");
    await client.query("SELECT pg_advisory_xact_lock($1)", [migrationLock]);
    if (schema !== "public")
      await client.query(`CREATE SCHEMA IF NOT EXISTS ${quoteIdentifier(schema)}`);
    await client.query("SELECT set_config('search_path', $1, true)", [quoteIdentifier(schema)]);
    await client.query(
      "CREATE TABLE IF NOT EXISTS idempotency_migrations (name text PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())",
    );
    const names = "SELECT name FROM idempotency_migrations";
    const applied = await ownRows<{ name: string }>(client, names);
    const done = new Set(applied.map((row) => row.name));
    const todo = migrations.filter((migration) => !done.has(migration.name));
    for (const migration of todo) {
      await client.query(migration.sql);
      await client.query("INSERT INTO idempotency_migrations (name) VALUES ($1)", [migration.name]);
    }
    if (options.newEpoch === true)
      await client.query("UPDATE idempotency_meta SET epoch = gen_random_uuid()");
    await client.query("COMMIT");
    failed = false;
    return todo.map((migration) => migration.name);
  } finally {
    // A failed migration leaves its transaction to die with the connection.
    client.removeListener("error", onError);
    client.release(failed);
  }
}

/** Resolves when the schema is there and of this version; rejects with `schema_missing` and what to do otherwise. */
export async function assertSchema(options: {
  readonly pool: Pool;
  readonly schema?: string;
}): Promise<void> {
  const schema = checkSchemaName(options.schema ?? "public");
  const read = `SELECT name FROM ${quoteIdentifier(schema)}.idempotency_migrations`;
  const applied = await ownRows<{ name: string }>(options.pool, read).catch((error: unknown) => {
    throw asSchemaError(error);
  });
  const done = new Set(applied.map((row) => row.name));
  const missing = migrations.filter((migration) => !done.has(migration.name));
  if (missing.length > 0) {
    const names = missing.map((migration) => migration.name).join(", ");
    throw new IdempotencyError("schema_missing", {
      detail: `Not applied yet: ${names}. Run \`npx oncekey migrate\`.`,
    });
  }
}
