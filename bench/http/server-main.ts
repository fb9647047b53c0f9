/** The process of one contender. Says its port on standard output, and answers each line on standard input. */
import { createServer } from "node:http";
import { Session } from "node:inspector/promises";
import type { AddressInfo } from "node:net";
import { createInterface } from "node:readline";
import { createApp, gate } from "./contenders.js";

const app = await createApp(process.argv[2] ?? "", {
  databaseUrl: process.env["DATABASE_URL"] ?? "",
  redisUrl: process.env["REDIS_URL"] ?? "",
});
const server = createServer({ keepAliveTimeout: 60_000 }, app);
server.listen(0, "127.0.0.1", () => {
  process.stdout.write(`listening ${(server.address() as AddressInfo).port}\n`);
});

function usage(): string {
  const { user, system } = process.cpuUsage();
  return `usage ${JSON.stringify({ cpu: (user + system) / 1e6, rss: process.memoryUsage.rss() })}`;
}

const session = new Session();
session.connect();
const profiler = {
  start: async (): Promise<string> => {
    await session.post("Profiler.enable");
    await session.post("Profiler.setSamplingInterval", { interval: 200 });
    await session.post("Profiler.start");
    return "profiling";
  },
  stop: async (): Promise<string> => {
    const { profile } = await session.post("Profiler.stop");
    return JSON.stringify(profile);
  },
};

/** What is allocated, whether or not it lives on. */
const allocations = {
  start: async (): Promise<string> => {
    await session.post("HeapProfiler.enable");
    await session.post("HeapProfiler.startSampling", {
      samplingInterval: 4_096,
      includeObjectsCollectedByMajorGC: true,
      includeObjectsCollectedByMinorGC: true,
    });
    return "sampling";
  },
  stop: async (): Promise<string> => {
    const { profile } = await session.post("HeapProfiler.stopSampling");
    return JSON.stringify(profile);
  },
};

let openGate = (): void => undefined;

/** Only with --expose-gc. */
function heapUsed(): string {
  for (let turn = 0; turn < 3; turn += 1) globalThis.gc?.();
  return `heap ${process.memoryUsage().heapUsed}`;
}

const holding: Readonly<Record<string, () => string>> = {
  hold: () => {
    gate.opened = new Promise((resolve) => (openGate = resolve));
    return "holding";
  },
  release: () => {
    gate.opened = undefined;
    gate.waiting = 0;
    openGate();
    return "released";
  },
  waiting: () => `waiting ${gate.waiting}`,
  heap: heapUsed,
};

const verbs: Readonly<Record<string, () => string | Promise<string>>> = {
  usage,
  ...holding,
  profile: profiler.start,
  "profile-stop": profiler.stop,
  allocations: allocations.start,
  "allocations-stop": allocations.stop,
};

async function answer(line: string): Promise<void> {
  process.stdout.write(`${await verbs[line]?.()}\n`);
}

createInterface({ input: process.stdin })
  .on("line", (line) => void answer(line))
  .on("close", () => process.exit(0));
