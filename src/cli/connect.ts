/**
 * The connections of operators' commands. Owns: opening them with patience that suits a terminal, and ending them. Must never
 * print a URL, which holds a password.
 */
import pg from "pg";
import { postgresStore } from "../stores/postgres.js";
import { usageError } from "./exit.js";

/** What every command that works on keys is told. */
export interface PlaceOptions {
  readonly databaseUrl: string;
  readonly schema: string;
  readonly json: boolean;
}

export interface OpenPlace {
  readonly pool: pg.Pool;
  readonly schema: string;
  readonly store: ReturnType<typeof postgresStore>;
}

const connectTimeoutMs = 10_000;
/** The doctor looks at two sessions at once; nothing here needs more. */
const poolSize = 3;
/** An operator can wait longer than a request, and tables of many keys are counted. */
const statementTimeoutMs = 60_000;

export function openPool(databaseUrl: string): pg.Pool {
  if (!/^postgres(ql)?:\/\//.test(databaseUrl))
    throw usageError("The database URL must begin with postgres:// or postgresql://.");
  const pool = new pg.Pool({
    connectionString: databaseUrl,
    max: poolSize,
    connectionTimeoutMillis: connectTimeoutMs,
    query_timeout: statementTimeoutMs,
    application_name: "oncekey",
  });
  // A connection that breaks while it is idle is of no interest; the next statement says so.
  pool.on("error", () => undefined);
  return pool;
}

/** Lends the store to `work` and ends everything after it. */
export async function withPlace<T>(
  { databaseUrl, schema }: PlaceOptions,
  work: (place: OpenPlace) => Promise<T>,
): Promise<T> {
  const pool = openPool(databaseUrl);
  // Safe behind a pooler and without one, and nobody here minds two more round trips.
  const store = postgresStore({ pool, schema, pooler: "transaction" });
  try {
    return await work({ pool, schema, store });
  } finally {
    await store.close();
    await pool.end();
  }
}
