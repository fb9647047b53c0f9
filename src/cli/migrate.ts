/**
 * `oncekey migrate`. Owns: the connection it uses, and what is said about the outcome. Must never print the URL, which holds
 * a password.
 */
import pg from "pg";
import { migrate } from "../stores/postgres.js";

export interface MigrateCommand {
  readonly databaseUrl: string;
  readonly schema: string;
}

const connectTimeoutMs = 10_000;

/** Applies what is missing and answers with words for it. */
export async function runMigrate({ databaseUrl, schema }: MigrateCommand): Promise<string> {
  const pool = new pg.Pool({
    connectionString: databaseUrl,
    max: 1,
    connectionTimeoutMillis: connectTimeoutMs,
  });
  pool.on("error", () => undefined);
  try {
    const applied = await migrate({ pool, schema });
    return applied.length === 0 ? "Nothing to do: the schema is up to date." : applied.join("\n");
  } finally {
    await pool.end();
  }
}
