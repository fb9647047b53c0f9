/**
 * The server in several processes on one port (`ONCEKEY_PROCESSES`). Owns: what there must be once for all of them: the
 * embedded Postgres, the migrations and the built-in payment provider. Serves no request itself, so that it outlives
 * whatever kills a worker.
 */
import { fileURLToPath } from "node:url";
import type { ServerConfig } from "./config.js";
import { localUrl } from "./listener.js";
import { openProvider, prepareTables } from "./start.js";
import type { RunningServer, StartOptions } from "./start.js";
import { createLogger } from "./observation.js";
import { connectionsOf, openPostgres } from "./postgres.js";
import { superviseWorkers } from "./supervisor.js";

/** Opens everything and answers when all workers serve. What was opened is closed again if a later step fails. */
export async function startCluster(
  config: ServerConfig,
  options: StartOptions,
): Promise<RunningServer> {
  const { say, stop } = options;
  const logger = createLogger(config.logLevel, options.logStream);
  const closers: (() => Promise<void>)[] = [];
  const closeAll = async (): Promise<void> => {
    const failures: unknown[] = [];
    for (const close of closers.splice(0).toReversed())
      await close().catch((error: unknown) => failures.push(error));
    if (failures.length > 0) throw new AggregateError(failures, "The server did not close cleanly");
  };
  try {
    const postgres = await openPostgres({ ...config, ...options });
    closers.push(() => postgres.close());
    await prepareTables(postgres.pool);
    const providerUrl = config.providerUrl ?? (await openProvider(config, closers));
    const workers = await superviseWorkers({
      count: config.processes,
      port: config.port,
      file: fileURLToPath(new URL("./cluster-worker.js", import.meta.url)),
      env: {
        DATABASE_URL: postgres.url,
        PROVIDER_URL: providerUrl,
        ONCEKEY_PROCESSES: String(config.processes),
      },
      logger,
      stop,
    });
    closers.push(() => workers.stop());
    const url = localUrl(config.host, workers.port);
    logger.info({ port: workers.port, processes: config.processes }, "listening");
    say(`oncekey is listening on ${url}`);
    const redis = config.redisUrl === undefined ? "none" : "yes";
    say(`Postgres: ${postgres.description}. Redis: ${redis}. Processes: ${config.processes}.`);
    const most = connectionsOf(config.processes);
    if (config.pooler === undefined && most > postgres.maxConnections)
      say(
        `These may open ${most} connections, and Postgres allows ${postgres.maxConnections}: raise max_connections, or use fewer processes.`,
      );
    return { port: workers.port, url, failed: workers.gaveUp, close: closeAll };
  } catch (error) {
    await closeAll().catch(() => undefined);
    throw error;
  }
}
