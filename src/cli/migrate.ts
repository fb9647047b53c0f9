/**
 * `oncekey migrate`. Owns: the connection it uses, and what is said about the outcome. Must never print the URL, which holds
 * a password.
 */
import pg from "pg";
import { migrate } from "../stores/postgres.js";
import { print, printJson } from "./words.js";

export interface MigrateCommand {
  readonly databaseUrl: string;
  readonly schema: string;
  readonly newEpoch: boolean;
  readonly json: boolean;
}

const connectTimeoutMs = 10_000;

/** Applies what is missing and says what that was. */
export async function runMigrate(command: MigrateCommand): Promise<void> {
  const { databaseUrl, schema, newEpoch, json } = command;
  // Without the limits of other commands: a migration of a large table takes its time.
  const pool = new pg.Pool({
    connectionString: databaseUrl,
    max: 1,
    connectionTimeoutMillis: connectTimeoutMs,
  });
  pool.on("error", () => undefined);
  try {
    const applied = await migrate({ pool, schema, newEpoch });
    if (json) return printJson({ applied, newEpoch });
    print(applied.length === 0 ? "Nothing to do: the schema is up to date." : applied.join("\n"));
    if (newEpoch) print("A new epoch has begun: cached responses of the past are misses.");
  } finally {
    await pool.end();
  }
}
