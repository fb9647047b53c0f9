/**
 * The server's Postgres: the one that DATABASE_URL names, or the embedded one. Owns: waiting for one that is still
 * starting, and saying clearly what is wrong with one that will not do. Must never print the URL, which holds a password.
 */
import { setTimeout as pause } from "node:timers/promises";
import pg from "pg";
import { startEmbeddedPostgres } from "./embedded.js";

export interface ServerPostgres {
  /** For handlers and the store. */
  readonly pool: pg.Pool;
  /** For readiness, which must not wait behind handlers. */
  readonly probes: pg.Pool;
  /** Holds the password. */
  readonly url: string;
  /** What Postgres allows to others than superusers. */
  readonly maxConnections: number;
  /** Where the data is, for people. */
  readonly description: string;
  /** Ends the pools, then the embedded Postgres if there is one. */
  close(): Promise<void>;
}

export interface PostgresOptions {
  readonly databaseUrl: string | undefined;
  readonly dataDir: string;
  /** How many processes like this one there are; default 1. */
  readonly processes?: number;
  /** Told to people while they wait. */
  readonly say: (line: string) => void;
  /** Aborted when the wait is in vain. */
  readonly stop?: AbortSignal;
  /** How long a Postgres may take to start. */
  readonly waitMs?: number;
}

/** Transaction routes hold one each while they run; further requests queue. */
const poolSize = 20;
/** Of several processes, what all their pools have together, but a few each: Postgres allows 100 where nobody raised it. */
const poolSizeOfAll = 40;
const leastPoolSize = 5;
/** Beside the pool: the store's nine, three of the outbox, two of the sink of events, and the probe. */
const besidePool = 15;
/** Of the primary process, of operators, and reserved. */
const spareConnections = 10;

function poolSizeFor(processes: number): number {
  return Math.min(poolSize, Math.max(leastPoolSize, Math.floor(poolSizeOfAll / processes)));
}

/** Most connections that so many processes open together. */
export function connectionsOf(processes: number): number {
  return processes * (poolSizeFor(processes) + besidePool);
}

/** A container with a large log to recover takes a while; longer than this, somebody should look. */
const defaultWaitMs = 60_000;
const retryMs = 250;
const sayEveryMs = 5_000;
const connectTimeoutMs = 5_000;
/** DESIGN, section 8. */
const oldestVersion = 140_000;

/** Not there yet, or going: refused and reset connections, names a container network has not learned, 57P03 and the like. */
const passing =
  /^(?:ECONNREFUSED|ECONNRESET|ENOTFOUND|EAI_AGAIN|ETIMEDOUT|EHOSTUNREACH|EPIPE|57P0[123]|08\w{3}|53300)$/;

/** Opens Postgres and answers when it can be worked with. */
export async function openPostgres(options: PostgresOptions): Promise<ServerPostgres> {
  const { databaseUrl, dataDir, say, processes = 1 } = options;
  const maxConnections = Math.max(100, connectionsOf(processes) + spareConnections);
  const embedded =
    databaseUrl === undefined
      ? await startEmbeddedPostgres({ dataDir, log: say, maxConnections })
      : undefined;
  const connectionString = databaseUrl ?? (embedded as { url: string }).url;
  const open = (max: number): pg.Pool => {
    const pool = new pg.Pool({
      connectionString,
      max,
      connectionTimeoutMillis: connectTimeoutMs,
      keepAlive: true,
      application_name: "oncekey serve",
    });
    // An idle connection that breaks is replaced by the pool; without a listener it would end the process.
    pool.on("error", () => undefined);
    return pool;
  };
  const pool = open(poolSizeFor(processes));
  const probes = open(1);
  const close = async (): Promise<void> => {
    await Promise.all([pool.end(), probes.end()]);
    await embedded?.stop();
  };
  try {
    const allowed = await untilReady(probes, addressOf(connectionString), options);
    const description =
      embedded === undefined ? addressOf(connectionString) : `embedded, ${dataDir}`;
    return { pool, probes, url: connectionString, maxConnections: allowed, description, close };
  } catch (error) {
    await close();
    throw error;
  }
}

async function untilReady(
  pool: pg.Pool,
  address: string,
  options: PostgresOptions,
): Promise<number> {
  const waitMs = options.waitMs ?? defaultWaitMs;
  const started = performance.now();
  let saidAt = -sayEveryMs;
  for (;;) {
    try {
      return await checkVersion(pool);
    } catch (error) {
      const waited = performance.now() - started;
      if (!isPassing(error)) throw refusal(address, error);
      if (options.stop?.aborted === true) {
        throw new Error("Stopped before Postgres answered.", { cause: error });
      }
      if (waited >= waitMs) {
        const seconds = Math.round(waitMs / 1_000);
        throw new Error(
          `Postgres at ${address} did not answer within ${seconds} s (${wordOf(error)}).`,
          {
            cause: error,
          },
        );
      }
      if (waited - saidAt >= sayEveryMs) {
        saidAt = waited;
        options.say(`Waiting for Postgres at ${address} (${wordOf(error)}).`);
      }
    }
    await pause(retryMs);
  }
}

/** Answers how many connections it allows. */
async function checkVersion(pool: pg.Pool): Promise<number> {
  const result = await pool.query<{ version: number; allowed: number }>(
    `SELECT current_setting('server_version_num')::int AS version,
      current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int AS allowed`,
  );
  const { version = 0, allowed = 0 } = result.rows[0] ?? {};
  if (version < oldestVersion) {
    throw new Error(`version ${Math.floor(version / 10_000)} is older than 14`);
  }
  return allowed;
}

function refusal(address: string, error: unknown): Error {
  const why = error instanceof Error ? error.message : String(error);
  return new Error(`Postgres at ${address} cannot be used: ${why}.`, { cause: error });
}

function isPassing(error: unknown): boolean {
  // Where a name has several addresses, Node wraps what each of them said.
  if (error instanceof AggregateError) return error.errors.every(isPassing);
  const { code } = error as { code?: unknown };
  if (typeof code === "string") return passing.test(code);
  return error instanceof Error && /timeout|terminated/i.test(error.message);
}

function wordOf(error: unknown): string {
  if (error instanceof AggregateError) return wordOf(error.errors[0]);
  const { code, message } = error as { code?: string; message?: string };
  return code ?? message ?? "no answer";
}

/** Host, port and database of a URL, without the user and the password. */
function addressOf(connectionString: string): string {
  const { host, pathname } = new URL(connectionString);
  return `${host === "" ? "localhost" : host}${pathname}`;
}
