/**
 * The load generator, a process of its own. Owns: a closed loop (so many connections, each sending when it was answered) and an
 * open one (so many requests a second, come what may). In the open loop a latency counts from the moment at which the
 * request was due and not from when a connection was free for it, so that a server that stalls is charged for
 * everything it kept waiting (no coordinated omission).
 */
import { build, type Histogram } from "hdr-histogram-js";
import { Connection, type Reply } from "./connection.js";

export interface LoadOrder {
  readonly port: number;
  readonly path: string;
  readonly connections: number;
  readonly seconds: number;
  /** Requests a second of an open loop; absent: a closed loop. */
  readonly rate?: number;
  /** `first`: every request has a key of its own. `replay`: one of `keys` keys that were sent before. `bare`: none. */
  readonly keys: "first" | "bare" | { readonly replay: number };
  /** What every key begins with, so that no two loads share any. */
  readonly prefix: string;
}

export interface LoadResult {
  readonly requests: number;
  readonly seconds: number;
  readonly perSecond: number;
  readonly replays: number;
  /** Answers by status. */
  readonly statuses: Readonly<Record<string, number>>;
  /** Milliseconds. */
  readonly latency: {
    readonly p50: number;
    readonly p90: number;
    readonly p99: number;
    readonly p999: number;
    readonly max: number;
  };
  /** CPU seconds of this process. */
  readonly cpu: number;
}

const body = JSON.stringify({
  amount: 4_200,
  currency: "usd",
  source: "tok_visa",
  description: "An order of three things and one more thing",
  metadata: { order: "ord_5f0c2a9e", channel: "web", note: "x".repeat(40) },
});

/** Order of the keys of one process of load; nothing but uniqueness is asked of them. */
function keysOf(order: LoadOrder): () => string | undefined {
  let count = 0;
  const { keys, prefix } = order;
  if (keys === "bare") return () => undefined;
  if (keys === "first") return () => `${prefix}-${(count += 1)}`;
  return () => `${prefix}-${((count += 7_919) % keys.replay) + 1}`;
}

function requestFor(order: LoadOrder, key: string | undefined): string {
  const header = key === undefined ? "" : `Idempotency-Key: ${key}\r\n`;
  return (
    `POST ${order.path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n` +
    `${header}Content-Length: ${body.length}\r\n\r\n${body}`
  );
}

class Tally {
  readonly histogram: Histogram = build({
    lowestDiscernibleValue: 1,
    highestTrackableValue: 60_000_000,
    numberOfSignificantValueDigits: 3,
  });
  readonly statuses: Record<string, number> = {};
  requests = 0;
  replays = 0;

  add(reply: Reply, ms: number): void {
    this.requests += 1;
    if (reply.isReplay) this.replays += 1;
    this.statuses[reply.status] = (this.statuses[reply.status] ?? 0) + 1;
    this.histogram.recordValue(Math.max(1, Math.round(ms * 1_000)));
  }

  result(seconds: number, cpu: number): LoadResult {
    const at = (percentile: number): number =>
      this.histogram.getValueAtPercentile(percentile) / 1_000;
    return {
      requests: this.requests,
      seconds,
      perSecond: this.requests / seconds,
      replays: this.replays,
      statuses: this.statuses,
      latency: {
        p50: at(50),
        p90: at(90),
        p99: at(99),
        p999: at(99.9),
        max: this.histogram.maxValue / 1_000,
      },
      cpu,
    };
  }
}

/** Stores the keys that a load of replays will ask for. */
export async function store(order: LoadOrder, count: number): Promise<void> {
  const all = Array.from({ length: count }, (_, index) => `${order.prefix}-${index + 1}`);
  const connections = Array.from({ length: 20 }, () => new Connection(order.port));
  await Promise.all(
    connections.map(async (connection) => {
      for (let key = all.pop(); key !== undefined; key = all.pop())
        await connection.send(requestFor(order, key));
      connection.close();
    }),
  );
}

async function closedLoop(order: LoadOrder, tally: Tally): Promise<void> {
  const nextKey = keysOf(order);
  const endMs = performance.now() + order.seconds * 1_000;
  const connections = Array.from({ length: order.connections }, () => new Connection(order.port));
  await Promise.all(
    connections.map(async (connection) => {
      // Each connection sends one at least, however late it comes to it.
      do {
        const request = requestFor(order, nextKey());
        const startedMs = performance.now();
        tally.add(await connection.send(request), performance.now() - startedMs);
      } while (performance.now() < endMs);
      connection.close();
    }),
  );
}

async function openLoop(order: LoadOrder, rate: number, tally: Tally): Promise<void> {
  const nextKey = keysOf(order);
  const total = Math.round(rate * order.seconds);
  const free = Array.from({ length: order.connections }, () => new Connection(order.port));
  const all = [...free];
  const due: number[] = [];
  const startedMs = performance.now();
  const dueAt = (index: number): number => startedMs + (index * 1_000) / rate;
  let scheduled = 0;
  await new Promise<void>((finish, fail) => {
    const serve = async (connection: Connection, dueMs: number): Promise<void> => {
      tally.add(await connection.send(requestFor(order, nextKey())), performance.now() - dueMs);
      free.push(connection);
      if (tally.requests === total) finish();
      else pump();
    };
    const pump = (): void => {
      while (due.length > 0 && free.length > 0)
        serve(free.pop() as Connection, due.shift() as number).catch(fail);
    };
    const tick = (): void => {
      while (scheduled < total && dueAt(scheduled) <= performance.now()) {
        due.push(dueAt(scheduled));
        scheduled += 1;
      }
      pump();
      // A timer bunches what is due within a millisecond, which counts as latency of all contenders alike. Looking in every turn of
      // the event loop would take a core from the servers.
      if (scheduled < total) setTimeout(tick, 1);
    };
    tick();
  });
  for (const connection of all) connection.close();
}

/** Runs a load to its end. */
export async function run(order: LoadOrder): Promise<LoadResult> {
  const tally = new Tally();
  const cpuBefore = process.cpuUsage();
  const startedMs = performance.now();
  if (order.rate === undefined) await closedLoop(order, tally);
  else await openLoop(order, order.rate, tally);
  const seconds = (performance.now() - startedMs) / 1_000;
  const { user, system } = process.cpuUsage(cpuBefore);
  return tally.result(seconds, (user + system) / 1e6);
}
