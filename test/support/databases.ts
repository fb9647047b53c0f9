/** A fresh database per test file, and the proof that the file gave back every connection it took. */
import { randomBytes } from "node:crypto";

import pg from "pg";

import { postgresUrl } from "./servers.js";
import { waitFor } from "./wait-for.js";

export type Database = {
  readonly url: string;
  readonly name: string;
  /** A pool that the database's owner closes; tests may open others with `url` and close them. */
  readonly pool: pg.Pool;
  /** Closes the pool, fails where other connections are left, and drops the database either way. */
  drop(): Promise<void>;
};

export type DatabaseOptions = {
  /** Run on the new database, for instance the migrations. */
  prepare?: (pool: pg.Pool) => Promise<unknown>;
  /** For the pool; `max` is 10 unless given. */
  pool?: pg.PoolConfig;
  /** The server to create it on; default the shared one. */
  serverUrl?: string;
};

/** How long a connection may take to disappear from pg_stat_activity after it was closed. */
const leakGraceMs = 2_000;

async function asAdministrator<T>(
  url: string,
  work: (client: pg.Client) => Promise<T>,
): Promise<T> {
  const client = new pg.Client({ connectionString: url, application_name: "oncekey test support" });
  await client.connect();
  try {
    return await work(client);
  } finally {
    await client.end();
  }
}

export async function createDatabase(options: DatabaseOptions = {}): Promise<Database> {
  const server = options.serverUrl ?? postgresUrl();
  const name = `oncekey_test_${randomBytes(6).toString("hex")}`;
  await asAdministrator(server, (client) => client.query(`create database ${name}`));
  const address = new URL(server);
  address.pathname = `/${name}`;
  const url = address.href;
  const pool = new pg.Pool({ max: 10, ...options.pool, connectionString: url });
  // A server that is stopped on purpose ends idle connections; without a listener that ends the test process.
  pool.on("error", () => {});

  const drop = async (): Promise<void> => {
    await pool.end();
    await asAdministrator(server, async (client) => {
      try {
        await waitFor(async () => (await connections(client, name)).length === 0, {
          timeoutMs: leakGraceMs,
          what: "connections to close",
        });
      } catch {
        const left = await connections(client, name);
        if (left.length > 0) throw new Error(`Connections were left open:\n${left.join("\n")}`);
      } finally {
        await client.query(`drop database if exists ${name} with (force)`);
      }
    });
  };

  try {
    await options.prepare?.(pool);
  } catch (error) {
    await drop();
    throw error;
  }
  return { url, name, pool, drop };
}

async function connections(client: pg.Client, name: string): Promise<string[]> {
  const { rows } = await client.query<{ line: string }>(
    `select format('pid %s, %s, %s: %s', pid, application_name, state, query) as line
       from pg_stat_activity
      where datname = $1 and backend_type = 'client backend'`,
    [name],
  );
  return rows.map((row) => row.line);
}

/**
 * Creates a database before the tests of the file (or `describe` block) that calls it, and drops it after them. The
 * properties may be read inside tests and hooks only. Options that an earlier hook decides are given as a function.
 */
export function useDatabase(
  options: DatabaseOptions | (() => DatabaseOptions) = {},
): Omit<Database, "drop"> {
  let database: Database | undefined;
  beforeAll(async () => {
    database = await createDatabase(typeof options === "function" ? options() : options);
  });
  afterAll(async () => {
    await database?.drop();
  });
  const current = (): Database => {
    if (database === undefined) throw new Error("The database exists inside tests and hooks only.");
    return database;
  };
  return {
    get url() {
      return current().url;
    },
    get name() {
      return current().name;
    },
    get pool() {
      return current().pool;
    },
  };
}
