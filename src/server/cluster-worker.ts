/**
 * The program of a worker of `ONCEKEY_PROCESSES`: a server that was given its Postgres and its provider. Owns: doing what the
 * primary says. When the primary is gone, so is the worker: Node ends it when the channel closes, and what it ran is settled as
 * after a crash.
 */
import { AggregatorRegistry } from "prom-client";
import type { Registry } from "prom-client";
import { readFromPrimary } from "./cluster-messages.js";
import type { FromWorker } from "./cluster-messages.js";
import { readConfig } from "./config.js";
import { startServer } from "./start.js";

/** Settled by the primary's answers. */
const scrapes = new Map<number, (text: string | undefined) => void>();
const stop = new AbortController();

function tell(message: FromWorker): Promise<void> {
  return new Promise((resolve) => {
    // A primary that is gone needs to be told nothing.
    if (process.send === undefined) resolve();
    else process.send(message, undefined, undefined, () => resolve());
  });
}

/** The sum over all workers, which only the primary can ask for. */
function shareMetrics(registry: Registry): () => Promise<string | undefined> {
  AggregatorRegistry.setRegistries([registry]);
  let last = 0;
  return async () => {
    const id = (last += 1);
    const answer = new Promise<string | undefined>((resolve) => void scrapes.set(id, resolve));
    await tell({ kind: "metrics_wanted", id });
    return answer;
  };
}

/** Listened for from the first moment, in one turn with prom-client: what came earlier is handed to all listeners at once. */
function listenToPrimary(): Promise<void> {
  AggregatorRegistry.setRegistries([]);
  // Made for its listener alone.
  void new AggregatorRegistry();
  return new Promise((resolve) => {
    const begin = (): void => {
      stop.abort();
      resolve();
    };
    process.on("message", (raw) => {
      const message = readFromPrimary(raw);
      if (message?.kind === "stop") begin();
      if (message?.kind !== "metrics") return;
      scrapes.get(message.id)?.(message.text);
      scrapes.delete(message.id);
    });
    // Some supervisors signal every process of a group.
    process.on("SIGTERM", begin);
    // Ctrl-C reaches the whole group as well; what a first and a second one mean is the primary's affair.
    process.on("SIGINT", () => undefined);
  });
}

async function run(): Promise<number> {
  const requested = listenToPrimary();
  try {
    const config = readConfig(process.env, process.stderr.isTTY);
    const say = (line: string): void => void process.stdout.write(`[${process.pid}] ${line}\n`);
    const running = await startServer(config, { say, stop: stop.signal, worker: { shareMetrics } });
    await tell({ kind: "listening", port: running.port });
    await requested;
    await running.close();
    return 0;
  } catch (error) {
    await tell({
      kind: "failed",
      message: error instanceof Error ? error.message : String(error),
    });
    return 1;
  }
}

process.exit(await run());
