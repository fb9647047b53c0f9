/**
 * One process that serves. Owns: the order in which things open and close. Standard output is for people and says where the
 * server listens; the log goes to standard error.
 */
import { join } from "node:path";
import type { Pool } from "pg";
import type { DestinationStream } from "pino";
import { migrate, postgresStore } from "../stores/postgres.js";
import { createApp } from "./app.js";
import type { AppOptions } from "./app.js";
import { checkoutTables } from "./checkout-ledger.js";
import type { ServerConfig } from "./config.js";
import { isUpload } from "./events.js";
import { dailyRevenue, eventTables } from "./event-ledger.js";
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
  const listener = await listen(api.app, config, { isUpload, uploadIdleMs: config.uploadIdleMs });
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
  await migrateLedger(pool, checkoutTables + eventTables);
  await dailyRevenue(pool).prepare();
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
