/**
 * The store's own connections to Postgres. Owns: opening, preparing, timing out and ending them, and the epoch that each
 * new one reads. Separate from the pool of the user, whose connections handlers hold: a claim's holder must be able to
 * complete and to send heartbeats while every connection of that pool is taken.
 */
import type { Pool, PoolClient, PoolConfig, QueryResult } from "pg";
import { IdempotencyError } from "../core/errors.js";
import { sqlStateOf } from "./sql-state.js";

export interface ConnectionOptions {
  /** Most connections of this set. */
  readonly max: number;
  /** A statement that takes longer is given up, with its connection. */
  readonly timeoutMs: number;
  /** Use named prepared statements; off behind a pooler that does not know them. */
  readonly prepare: boolean;
  /** Statement that reads the epoch. */
  readonly epochSql: string;
  /** Called with the epoch of each new connection, and with undefined when a connection is lost. */
  readonly onEpoch: (epoch: string | undefined) => void;
  readonly isEpochKnown: () => boolean;
}

/** A statement with a name to prepare it under. */
export interface Statement {
  readonly name: string;
  readonly text: string;
}

export interface Connections {
  /** Runs one statement in a transaction of its own. After any failure the connection is thrown away. */
  run(statement: Statement, values: readonly unknown[]): Promise<QueryResult>;
  /** Runs several statements on one connection. After any failure the connection is thrown away. */
  withClient<T>(work: (client: PoolClient) => Promise<T>): Promise<T>;
  close(): Promise<void>;
}

/**
 * Isolation and durability are set explicitly, whatever the server's or role's defaults are; durability is never lowered.
 * Plans are made per call: a plan cached while the table was tiny would scan it for ever.
 */
const sessionSettings = `
  SELECT set_config('default_transaction_isolation', 'read committed', false),
    set_config('default_transaction_read_only', 'off', false),
    set_config('plan_cache_mode', 'force_custom_plan', false),
    CASE WHEN current_setting('synchronous_commit') IN ('off', 'local', 'remote_write')
      THEN set_config('synchronous_commit', 'on', false) END`;

/** Opens connections to the same database as the user's pool, by the same class and settings. */
export function openConnections(pool: Pool, options: ConnectionOptions): Connections {
  const own = derivePool(pool, options);
  const ready = new WeakSet<PoolClient>();
  let closed: Promise<void> | undefined;
  own.on("error", () => options.onEpoch(undefined));

  const readEpoch = async (client: PoolClient): Promise<void> => {
    const result = await client.query<{ epoch: string }>(options.epochSql).catch((error: unknown) => {
      throw asSchemaError(error);
    });
    options.onEpoch(result.rows[0]?.epoch);
  };

  const withClient = async <T>(work: (client: PoolClient) => Promise<T>): Promise<T> => {
    const client = await own.connect();
    const onError = (): void => options.onEpoch(undefined);
    client.on("error", onError);
    let failure: unknown;
    try {
      if (!ready.has(client)) await client.query(sessionSettings);
      // Also on a connection that is not new, once another one was lost: else a quiet pool would never know again.
      if (!ready.has(client) || !options.isEpochKnown()) await readEpoch(client);
      ready.add(client);
      return await work(client);
    } catch (error) {
      failure = error;
      if (!isServerAnswer(error)) options.onEpoch(undefined);
      throw error;
    } finally {
      client.removeListener("error", onError);
      client.release(failure !== undefined);
    }
  };

  return {
    withClient,
    run: (statement, values) =>
      withClient((client) =>
        client.query({
          ...(options.prepare ? { name: statement.name } : {}),
          text: statement.text,
          values: [...values],
        }),
      ),
    // Closing twice is closing once: the app and the middleware may both do it.
    close: () => (closed ??= own.end()),
  };
}

/** True for an error that the server sent, so that the statement is known to have failed. */
export function isServerAnswer(error: unknown): error is Error & { code: string } {
  if (!(error instanceof Error)) return false;
  const { code, severity } = error as { code?: unknown; severity?: unknown };
  // 57P01 to 57P03 and class 08 are sent by a server that is going away: its connection is lost all the same.
  return typeof code === "string" && severity !== undefined && !/^(08|57P0)/.test(code);
}

/** Says what to do where the tables are not there; passes anything else on. */
export function asSchemaError(error: unknown): unknown {
  const code = sqlStateOf(error);
  // undefined_table, invalid_schema_name, undefined_function, undefined_column
  if (code === "42P01" || code === "3F000" || code === "42883" || code === "42703") {
    return new IdempotencyError("schema_missing", { cause: error });
  }
  return error;
}

function derivePool(pool: Pool, options: ConnectionOptions): Pool {
  const { options: given } = pool as Pool & { options: PoolConfig };
  const PoolClass = pool.constructor as new (config: PoolConfig) => Pool;
  return new PoolClass({
    ...given,
    // pg hides the password from enumeration, so that spreading loses it.
    ...(given.password === undefined ? {} : { password: given.password }),
    max: options.max,
    min: 0,
    // Kept open: the loss of an idle connection is how a failover is noticed (see the epoch).
    idleTimeoutMillis: 0,
    keepAlive: true,
    connectionTimeoutMillis: options.timeoutMs,
    statement_timeout: options.timeoutMs,
    query_timeout: options.timeoutMs + 250,
    allowExitOnIdle: true,
  });
}
