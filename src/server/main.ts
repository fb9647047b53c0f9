/**
 * The life of the server: start, serve, stop. Owns: the order in which things open and close, and what a signal means.
 * Standard output is for people and says where the server listens; the log goes to standard error.
 */
import { join } from "node:path";
import type { Pool } from "pg";
import type { DestinationStream } from "pino";
import { migrate, postgresStore } from "../stores/postgres.js";
import { createApp } from "./app.js";
import type { AppOptions } from "./app.js";
import { checkoutTables } from "./checkout-ledger.js";
import { readConfig } from "./config.js";
import type { ServerConfig } from "./config.js";
import { migrateLedger } from "./ledger.js";
import { listen } from "./listener.js";
import { createLogger } from "./observation.js";
import { openPostgres } from "./postgres.js";
import { startProvider } from "./provider.js";
import { deliverReceipts } from "./receipts.js";
import { createProviderClient } from "./provider-client.js";
import { openRedis } from "./redis.js";

export interface RunningServer {
  readonly port: number;
  readonly url: string;
  /** Resolves, with the reason, when it cannot go on serving. */
  readonly failed?: Promise<Error>;
  /** Stops accepting, lets what runs finish and be stored, then closes everything. */
  close(): Promise<void>;
}

export interface StartOptions {
  /** Lines for people. */
  readonly say: (line: string) => void;
  /** Where the log goes instead of standard error. */
  readonly logStream?: DestinationStream;
  /** Aborted when nobody wants the server any more, so that the start need not wait for Postgres. */
  readonly stop?: AbortSignal;
  /** This is one of several processes: the tables are there, and the primary says where they listen. */
  readonly worker?: Pick<AppOptions, "shareMetrics">;
}

/** Longer than any request may take; a supervisor's own patience should be longer still. */
const shutdownTimeoutMs = 30_000;
/** npm passes on the Ctrl-C that the terminal has sent to this process too: two signals this close are one. */
const sameSignalMs = 1_000;

/** Opens everything and listens. What was opened is closed again if a later step fails. */
export async function startServer(
  config: ServerConfig,
  options: StartOptions,
): Promise<RunningServer> {
  const closers: (() => Promise<void>)[] = [];
  const closeAll = async (): Promise<void> => {
    // One that fails must not keep the rest from closing: the last of them ends the embedded Postgres.
    const failures: unknown[] = [];
    for (const close of closers.splice(0).toReversed()) {
      await close().catch((error: unknown) => failures.push(error));
    }
    if (failures.length > 0) throw new AggregateError(failures, "The server did not close cleanly");
  };
  try {
    return await open(config, options, closers, closeAll);
  } catch (error) {
    // What went wrong first is what its reader must know.
    await closeAll().catch(() => undefined);
    throw error;
  }
}

async function open(
  config: ServerConfig,
  options: StartOptions,
  closers: (() => Promise<void>)[],
  closeAll: () => Promise<void>,
): Promise<RunningServer> {
  const { say } = options;
  const logger = createLogger(config.logLevel, options.logStream);
  const postgres = await openPostgres({ ...config, ...options });
  closers.push(() => postgres.close());
  if (options.worker === undefined) await prepareTables(postgres.pool);

  const redis = config.redisUrl === undefined ? undefined : await openRedis(config.redisUrl, say);
  if (redis !== undefined) closers.push(() => redis.close());

  const providerUrl = config.providerUrl ?? (await openProvider(config, closers));

  if (config.receipts !== undefined) {
    const { pool } = postgres;
    closers.push(deliverReceipts({ pool, pooler: config.pooler, logger, ...config.receipts }));
  }

  let isDraining = false;
  const api = createApp({
    ...config,
    ...postgres,
    store: postgresStore({
      pool: postgres.pool,
      ...(config.pooler === undefined ? {} : { pooler: config.pooler }),
    }),
    ...(redis === undefined ? {} : { cache: redis.cache, redis: redis.client }),
    logger,
    payment: {
      provider: createProviderClient(providerUrl),
      honoursKeys: config.providerHonoursKeys,
      offersLookup: config.providerLookup,
    },
    isDraining: () => isDraining,
    ...options.worker,
  });
  closers.push(() => api.close());
  const listener = await listen(api.app, config);
  closers.push(() => listener.close());

  logger.info({ port: listener.port }, "listening");
  if (options.worker === undefined) {
    say(`oncekey is listening on ${listener.url}`);
    say(`Postgres: ${postgres.description}. Redis: ${redis === undefined ? "none" : "yes"}.`);
  }
  return {
    port: listener.port,
    url: listener.url,
    close: async () => {
      isDraining = true;
      await closeAll();
      logger.info("stopped");
    },
  };
}

/** Makes or updates all tables. */
export async function prepareTables(pool: Pool): Promise<void> {
  await migrate({ pool });
  await migrateLedger(pool, checkoutTables);
}

/** The built-in payment provider, which keeps its books beside the embedded Postgres. */
export async function openProvider(
  config: ServerConfig,
  closers: (() => Promise<void>)[],
): Promise<string> {
  const provider = await startProvider({
    ledgerFile: join(config.dataDir, "provider-ledger.jsonl"),
    honoursKeys: config.providerHonoursKeys,
  });
  closers.push(() => provider.close());
  return provider.url;
}

/**
 * Runs the server until SIGTERM or SIGINT, and answers the exit code. The first signal drains; a second one, or 30 s without
 * an end, exits at once: whatever was not stored by then is settled as after a crash.
 */
export async function serve(
  env: Readonly<Record<string, string | undefined>> = process.env,
): Promise<number> {
  const say = (line: string): void => void process.stdout.write(`${line}\n`);
  const config = readConfig(env, process.stderr.isTTY);
  const stop = listenForSignals(say);
  const options = { say, stop: stop.signal };
  const running = await start(config, options);
  say(tryItOut(running.url, config));
  const failure = await Promise.race([stop.requested, running.failed ?? stop.requested]);
  const timer = setTimeout(() => {
    say(`Not finished after ${shutdownTimeoutMs / 1_000} s.`);
    process.exit(1);
  }, shutdownTimeoutMs);
  try {
    await running.close();
    if (failure !== undefined) process.stderr.write(`${failure.message}\n`);
    const code = failure === undefined ? 0 : 1;
    // Node never lets go of a connection that it was just handing to a worker that died; it must not keep this process.
    if (config.processes > 1) process.exit(code);
    return code;
  } catch (error) {
    createLogger(config.logLevel).error({ err: error }, "shutdown failed");
    return 1;
  } finally {
    clearTimeout(timer);
  }
}

async function start(config: ServerConfig, options: StartOptions): Promise<RunningServer> {
  if (config.processes === 1) return startServer(config, options);
  const { startCluster } = await import("./cluster.js");
  return startCluster(config, options);
}

/** Listened for from the first moment: a signal during the start must not leave an embedded Postgres behind. */
function listenForSignals(say: (line: string) => void): {
  readonly requested: Promise<undefined>;
  readonly signal: AbortSignal;
} {
  const controller = new AbortController();
  let firstAt: number | undefined;
  const requested = new Promise<undefined>((resolve) => {
    const handle = (signal: NodeJS.Signals): void => {
      const now = performance.now();
      if (firstAt === undefined) {
        firstAt = now;
        say(`${signal}: finishing what runs.`);
        controller.abort();
        resolve(undefined);
      } else if (now - firstAt >= sameSignalMs) {
        say(`${signal} again: exiting at once.`);
        process.exit(1);
      }
    };
    for (const signal of ["SIGTERM", "SIGINT"] as const) process.on(signal, handle);
  });
  return { requested, signal: controller.signal };
}

/** A command that works as it is printed; a key that is not the public demo key is never shown. */
function tryItOut(url: string, config: ServerConfig): string {
  const key = config.accounts.has("sk_test_demo") ? "sk_test_demo" : "$API_KEY";
  return [
    "",
    "Charge a card, then send the same command again: one charge, and the same answer byte for byte.",
    "",
    `  curl -i ${url}/v1/charges \\`,
    `    -H "Authorization: Bearer ${key}" \\`,
    '    -H "Idempotency-Key: order-1042-charge" \\',
    '    -H "Content-Type: application/json" \\',
    `    -d '{"amount": 2000, "currency": "eur", "source": "tok_visa"}'`,
    "",
  ].join("\n");
}
