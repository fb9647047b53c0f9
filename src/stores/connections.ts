/**
 * The store's own connections to Postgres. Owns: opening, preparing, timing out and ending them, and the epoch that each
 * new one reads. Separate from the pool of the user, whose connections handlers hold: a claim's holder must be able to
 * complete and to send heartbeats while every connection of that pool is taken.
 */
import type { CustomTypesConfig, Pool, PoolClient, PoolConfig, QueryResult } from "pg";
import { systemClock } from "../core/clock.js";
import { IdempotencyError } from "../core/errors.js";
import { takesOneWrite, writeTogether } from "./one-write.js";
import { ownTypes, textTypes } from "./own-types.js";
import { sqlStateOf } from "./sql-state.js";
import { limitGraceMs } from "./time-limit.js";

export interface ConnectionOptions {
  /** Most connections of this set. */
  readonly max: number;
  /** A statement that takes longer is given up, with its connection. */
  readonly timeoutMs: number;
  /** Use named prepared statements; off behind a pooler that does not know them. */
  readonly prepare: boolean;
  /** A pooler gives each transaction another session, so that nothing may be left in one. */
  readonly pooler?: "transaction" | undefined;
  /** Statement that reads the epoch. */
  readonly epochSql: string;
  /**
   * Called with the epoch of each new connection, behind a pooler with that of each transaction of `run`, and with undefined
   * when a connection is lost. `askedAtMs` is monotonic time from before the query.
   */
  readonly onEpoch: (epoch: string | undefined, askedAtMs: number) => void;
  readonly isEpochKnown: () => boolean;
}

const monotonicMs = (): number => systemClock.monotonicMs();

/** A statement with a name to prepare it under. */
export interface Statement {
  readonly name: string;
  readonly text: string;
}

/** Rows of a statement, each value as the server's text, in the order of the columns. */
export type TextRows = readonly (readonly (string | null)[])[];

export interface Connections {
  /** Runs one statement in a transaction of its own. After any failure the connection is thrown away. */
  run(statement: Statement, values: readonly unknown[]): Promise<TextRows>;
  /** Runs several statements on one connection. After any failure the connection is thrown away. */
  withClient<T>(work: (client: PoolClient) => Promise<T>): Promise<T>;
  /** Begins a transaction inside `withClient`. Only this: a plain BEGIN takes its settings from whatever session it meets. */
  readonly begin: string;
  close(): Promise<void>;
}

const beginTransaction = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE";

/**
 * Isolation and durability are set explicitly, whatever the server's or role's defaults are; durability is never lowered.
 * Planning a batch anew costs the server more than running it, so plans are made once; and so that one made while the table was
 * tiny is as good as any, it can only be one: for each key of the batch, its row by the primary key. (Left alone, the
 * planner reads up to 14 MB of table for a batch of 200 keys, which takes eight times as long; and it would compile the
 * query of the epoch.) Large responses are compressed by lz4 where the server was built with it: a row with a body of 20 KB costs
 * it 0.1 ms rather than 0.3 ms or more, in the same room.
 */
const sessionSettings = `
  SELECT set_config('default_transaction_isolation', 'read committed', false),
    set_config('default_transaction_read_only', 'off', false),
    set_config('plan_cache_mode', 'force_generic_plan', false),
    set_config('enable_seqscan', 'off', false), set_config('enable_hashjoin', 'off', false),
    set_config('enable_mergejoin', 'off', false), set_config('jit', 'off', false),
    (SELECT set_config(name, 'lz4', false) FROM pg_settings
      WHERE name = 'default_toast_compression' AND 'lz4' = ANY (enumvals)),
    CASE WHEN current_setting('synchronous_commit') IN ('off', 'local', 'remote_write')
      THEN set_config('synchronous_commit', 'on', false) END`;

/**
 * The same for one transaction, and gone with it, together with the time limit that a session gets when it is opened.
 * Statements without names are planned per call anyway.
 */
const transactionSettings = (timeoutMs: number): string => `
  SELECT set_config('statement_timeout', '${Math.round(timeoutMs)}', true),
    set_config('idle_in_transaction_session_timeout', '${Math.round(timeoutMs)}', true),
    set_config('enable_seqscan', 'off', true), set_config('enable_hashjoin', 'off', true),
    set_config('enable_mergejoin', 'off', true), set_config('jit', 'off', true),
    CASE WHEN current_setting('synchronous_commit') IN ('off', 'local', 'remote_write')
      THEN set_config('synchronous_commit', 'on', true) END`;

/** Opens connections to the same database as the user's pool, by the same class and settings. */
export function openConnections(pool: Pool, options: ConnectionOptions): Connections {
  return options.pooler === "transaction" ? openPooled(pool, options) : openDirect(pool, options);
}

function openDirect(pool: Pool, options: ConnectionOptions): Connections {
  const own = derivePool(pool, { ...options, types: ownTypes });
  const limitMs = options.timeoutMs + limitGraceMs;
  const ready = new WeakSet<PoolClient>();
  let closed: Promise<void> | undefined;
  const onLoss = (): void => options.onEpoch(undefined, monotonicMs());
  own.on("error", onLoss);

  const readEpoch = async (client: PoolClient): Promise<void> => {
    const askedAtMs = monotonicMs();
    const result = await client
      .query<{ epoch: string }>(options.epochSql)
      .catch((error: unknown) => {
        throw asSchemaError(error);
      });
    options.onEpoch(result.rows[0]?.epoch, askedAtMs);
  };
  const withClient = <T>(work: (client: PoolClient) => Promise<T>): Promise<T> =>
    borrow(own, onLoss, async (client) => {
      if (!ready.has(client)) await client.query(sessionSettings);
      // Also on a connection that is not new, once another one was lost: else a quiet pool would never know again.
      if (!ready.has(client) || !options.isEpochKnown()) await readEpoch(client);
      ready.add(client);
      return work(client);
    });

  return {
    withClient,
    begin: beginTransaction,
    run: (statement, values) =>
      withClient((client) =>
        readTexts(client, options.prepare ? statement : { text: statement.text }, values, limitMs),
      ),
    // Closing twice is closing once: the app and the middleware may both do it.
    close: () => (closed ??= own.end()),
  };
}

/**
 * The same behind a pooler: each statement is a transaction that brings its settings along and reads the epoch of the very
 * server that it runs on. A connection to the pooler outlives a failover, so that its loss would tell nothing.
 */
function openPooled(pool: Pool, options: ConnectionOptions): Connections {
  const own = derivePool(pool, { ...options, types: ownTypes });
  const limitMs = options.timeoutMs + limitGraceMs;
  let closed: Promise<void> | undefined;
  const onLoss = (): void => options.onEpoch(undefined, monotonicMs());
  own.on("error", onLoss);
  const begin = `${beginTransaction}; ${transactionSettings(options.timeoutMs)}`;
  const withClient = <T>(work: (client: PoolClient) => Promise<T>): Promise<T> =>
    borrow(own, onLoss, work);

  const beginAndReadEpoch = async (client: PoolClient): Promise<void> => {
    const askedAtMs = monotonicMs();
    // Several statements in one message are answered by several results, which pg's types do not know.
    const answers = (await client.query(`${begin}; ${options.epochSql}`).catch((error: unknown) => {
      throw asSchemaError(error);
    })) as unknown as readonly QueryResult<{ epoch?: string }>[];
    options.onEpoch(answers.at(-1)?.rows[0]?.epoch, askedAtMs);
  };
  return {
    withClient,
    begin,
    run: (statement, values) =>
      withClient(async (client) => {
        await beginAndReadEpoch(client);
        const rows = await readTexts(client, { text: statement.text }, values, limitMs);
        await client.query("COMMIT");
        return rows;
      }),
    close: () => (closed ??= own.end()),
  };
}

/**
 * In one write where the client lets us: pg would send five messages, and describe and parse two dozen columns a request.
 * What failed is thrown, and whoever lent the connection throws it away.
 */
async function readTexts(
  client: PoolClient,
  statement: { readonly name?: string; readonly text: string },
  values: readonly unknown[],
  timeoutMs: number,
): Promise<TextRows> {
  if (takesOneWrite(client)) {
    const written = await writeTogether(client, [{ ...statement, values }], timeoutMs);
    if (written.kind === "failed") throw written.cause;
    return written.answers[0]?.rows ?? [];
  }
  const query = { ...statement, values: [...values], rowMode: "array", types: textTypes } as const;
  return (await client.query<(string | null)[]>(query)).rows;
}

/** Lends a connection. After any failure it is thrown away, and with it the transaction that is open in it. */
async function borrow<T>(
  own: Pool,
  onLoss: () => void,
  work: (client: PoolClient) => Promise<T>,
): Promise<T> {
  const client = await own.connect();
  client.on("error", onLoss);
  let failure: unknown;
  try {
    return await work(client);
  } catch (error) {
    failure = error;
    if (!isServerAnswer(error)) onLoss();
    throw error;
  } finally {
    client.removeListener("error", onLoss);
    client.release(failure !== undefined);
  }
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

/**
 * Of a session. A process that freezes between two statements of a transaction keeps the row of its key locked, and locked
 * means alive: without the second limit nobody could go on with that key.
 */
function timeLimits(ms: number): Pick<PoolConfig, TimeLimit> {
  return { statement_timeout: ms, idle_in_transaction_session_timeout: ms };
}
type TimeLimit = "statement_timeout" | "idle_in_transaction_session_timeout";

/** A pool of the same class and settings as the user's. */
export function derivePool(
  pool: Pool,
  options: Pick<ConnectionOptions, "max" | "timeoutMs" | "pooler"> & {
    /** Undefined: as the application reads values. */
    readonly types?: CustomTypesConfig;
  },
): Pool {
  const { options: given } = pool as Pool & { options: PoolConfig };
  const PoolClass = pool.constructor as new (config: PoolConfig) => Pool;
  return new PoolClass({
    ...given,
    // pg hides the password from enumeration, so that spreading loses it.
    ...(given.password === undefined ? {} : { password: given.password }),
    ...(options.types === undefined ? {} : { types: options.types }),
    max: options.max,
    min: 0,
    // Kept open: the loss of an idle connection is how a failover is noticed (see the epoch).
    idleTimeoutMillis: 0,
    keepAlive: true,
    connectionTimeoutMillis: options.timeoutMs,
    // Sent as the session begins, which poolers refuse.
    ...(options.pooler === undefined ? timeLimits(options.timeoutMs) : {}),
    query_timeout: options.timeoutMs + limitGraceMs,
    allowExitOnIdle: true,
  });
}
