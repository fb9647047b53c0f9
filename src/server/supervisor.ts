/**
 * The workers of a server of several processes. Owns: forking them, replacing those that die, and ending them. Must never
 * fork without a bound, and must never leave a worker behind.
 */
import cluster from "node:cluster";
import type { Worker } from "node:cluster";
import type { Logger } from "pino";
import { AggregatorRegistry } from "prom-client";
import { readFromWorker } from "./cluster-messages.js";
import type { FromPrimary } from "./cluster-messages.js";

export interface SupervisorOptions {
  /** How many workers there are to be. */
  readonly count: number;
  /** 0: any free one, the same for all. */
  readonly port: number;
  /** The program that each of them runs. */
  readonly file: string;
  /** Added to their environment. */
  readonly env: Readonly<Record<string, string>>;
  readonly logger: Logger;
  /** Aborted when nobody wants them any more. */
  readonly stop?: AbortSignal | undefined;
}

export interface Supervisor {
  readonly port: number;
  /** Resolves, with the reason, when too many workers died too soon after one another. */
  readonly gaveUp: Promise<Error>;
  /** Lets each finish what it runs; rejects when one of them did not end as it should. */
  stop(): Promise<void>;
}

/** Deaths a worker within the window, above which something is wrong that another fork will not mend. */
const mostDeathsEach = 4;
const windowMs = 60_000;
/** The first death is made good at once, since requests wait; each further one within the window waits twice as long. */
const firstPauseMs = 50;
const mostPauseMs = 2_000;
/** For workers that have begun to serve while another could not start. */
const failedStartGraceMs = 5_000;

/** How long the replacement of the `count`-th death within the window waits. */
export function pauseBefore(count: number): number {
  return count <= 1 ? 0 : Math.min(firstPauseMs * 2 ** (count - 2), mostPauseMs);
}

/** Forks the workers and answers when all of them serve; rejects with the reason of the first that cannot. */
export async function superviseWorkers(options: SupervisorOptions): Promise<Supervisor> {
  const { count, logger } = options;
  cluster.setupPrimary({ exec: options.file, args: [] });
  const registry = new AggregatorRegistry();
  const workers = new Map<number, Worker>();
  /** The port that each asked for. */
  const serving = new Map<number, number>();
  const reasons = new Map<number, string>();
  const timers = new Set<NodeJS.Timeout>();
  let deaths: number[] = [];
  let phase: "starting" | "running" | "stopping" = "starting";
  let port: number | undefined;
  let unclean: string | undefined;
  const started = settleable<number>();
  const ended = settleable<void>();
  const gaveUp = settleable<Error>();

  // However this process ends, short of kill -9 (then a worker sees the channel close and exits by itself).
  const killAll = (): void => {
    for (const worker of workers.values()) worker.process.kill("SIGKILL");
  };
  process.once("exit", killAll);

  const fork = (): void => {
    // Workers share a port by asking for it in the same words: those that ask for any free one get one together as long as
    // one of them holds it. When none does, it must be asked for by its number, from then on.
    const [wanted = port ?? options.port] = serving.values();
    const worker = cluster.fork({ ...options.env, PORT: String(wanted) });
    workers.set(worker.id, worker);
    worker.on("error", (error) => logger.warn({ err: error }, "worker channel"));
    worker.on("message", (message: unknown) => onMessage(worker, wanted, message));
    worker.once("exit", (code, signal) => onExit(worker, code, signal));
  };
  const onMessage = (worker: Worker, wanted: number, raw: unknown): void => {
    const message = readFromWorker(raw);
    if (message?.kind === "failed") reasons.set(worker.id, message.message);
    if (message?.kind === "metrics_wanted") void sendMetrics(worker, message.id, registry);
    if (message?.kind !== "listening") return;
    port ??= message.port;
    if (message.port !== port || phase === "stopping") {
      // The last holder of the port died while this one was on its way, and the next one asks by number; or it was told to
      // stop before it listened for that: Node drops what comes so early.
      tell(worker, { kind: "stop" });
      return;
    }
    serving.set(worker.id, wanted);
    if (serving.size === count) started.resolve(port);
  };
  const onExit = (worker: Worker, code: number | null, signal: string | null): void => {
    const how = reasons.get(worker.id) ?? `ended by ${signal ?? `exit code ${code}`}`;
    for (const known of [workers, serving, reasons]) known.delete(worker.id);
    if (phase === "stopping") {
      if (code !== 0) {
        unclean ??= how;
        logger.error({ worker: worker.process.pid, how }, "a worker died while it was stopping");
      }
      if (workers.size === 0) ended.resolve();
    } else if (phase === "starting") started.reject(new Error(how));
    else replace(worker, how);
  };
  const replace = (worker: Worker, how: string): void => {
    const now = performance.now();
    deaths = [...deaths.filter((at) => now - at < windowMs), now];
    const pid = worker.process.pid;
    logger.error({ worker: pid, how, deaths: deaths.length }, "a worker died");
    if (deaths.length > mostDeathsEach * count) {
      const times = `${deaths.length} workers died within ${windowMs / 1_000} s`;
      gaveUp.resolve(new Error(`${times}; the last one: ${how}`));
      return;
    }
    const timer = setTimeout(() => {
      timers.delete(timer);
      fork();
    }, pauseBefore(deaths.length));
    timers.add(timer);
  };
  const stop = async (): Promise<void> => {
    phase = "stopping";
    for (const timer of timers) clearTimeout(timer);
    if (workers.size === 0) ended.resolve();
    for (const worker of workers.values()) tell(worker, { kind: "stop" });
    await ended.promise;
    process.removeListener("exit", killAll);
    if (unclean !== undefined) throw new Error(`A worker did not stop as it should: ${unclean}`);
  };

  options.stop?.addEventListener("abort", () =>
    started.reject(new Error("Stopped before the workers served.")),
  );
  for (let index = 0; index < count; index += 1) fork();
  try {
    const bound = await started.promise;
    phase = "running";
    return { port: bound, gaveUp: gaveUp.promise, stop };
  } catch (error) {
    const timer = setTimeout(killAll, failedStartGraceMs);
    await stop().catch(() => undefined);
    clearTimeout(timer);
    throw error;
  }
}

async function sendMetrics(
  worker: Worker,
  id: number,
  registry: { clusterMetrics(): Promise<string> },
): Promise<void> {
  const text = await registry.clusterMetrics().catch(() => undefined);
  tell(worker, { kind: "metrics", id, ...(text === undefined ? {} : { text }) });
}

/** A worker that is just dying cannot be told; its exit will say so. */
function tell(worker: Worker, message: FromPrimary): void {
  if (worker.isConnected()) worker.send(message, undefined, () => undefined);
}

interface Settleable<T> {
  readonly promise: Promise<T>;
  readonly resolve: (value: T) => void;
  readonly reject: (error: Error) => void;
}

function settleable<T>(): Settleable<T> {
  let resolve!: (value: T) => void;
  let reject!: (error: Error) => void;
  const promise = new Promise<T>((onResolve, onReject) => {
    resolve = onResolve;
    reject = onReject;
  });
  // Whoever awaits it sees the rejection; until then it is nobody's fault.
  promise.catch(() => undefined);
  return { promise, resolve, reject };
}
