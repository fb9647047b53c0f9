/**
 * The processes of a benchmark: contenders and the load generator, each in a Node of its own, and what CPU each server has used.
 */
import { readdirSync, readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { createInterface } from "node:readline";

import { compiledTree } from "../../test/support/compiled-tree.js";
import { spawnChild, endChild } from "../../test/support/processes.js";
import type { LoadOrder, LoadResult } from "./load.js";

/** A child that answers each line on its standard input with one line. */
export interface Talker {
  readonly pid: number;
  ask(line: string): Promise<string>;
  /** The first line that it says by itself. */
  readonly first: Promise<string>;
  end(): Promise<void>;
}

/** Starts a program of `bench/` as what `npm run build` makes of it would run. */
export function startTalker(
  file: string,
  args: readonly string[],
  env: Readonly<Record<string, string>>,
  flags: readonly string[] = [],
): Talker {
  const script = join(compiledTree(), file.replace(/\.ts$/, ".js"));
  const child = spawnChild(process.execPath, [...flags, script, ...args], {
    cwd: resolve("."),
    env: { ...process.env, NODE_ENV: "production", ...env },
    stdio: ["pipe", "pipe", "inherit"],
  });
  const { stdin, stdout } = child;
  if (stdin === null || stdout === null) throw new Error("a child without pipes");
  const waiting: { resolve: (line: string) => void; reject: (error: Error) => void }[] = [];
  const next = (): Promise<string> =>
    new Promise((done, reject) => void waiting.push({ resolve: done, reject }));
  createInterface({ input: stdout }).on("line", (line) => waiting.shift()?.resolve(line));
  child.once("exit", (code) => {
    for (const { reject } of waiting.splice(0)) reject(new Error(`${file} ended (${code})`));
  });
  return {
    pid: child.pid,
    first: next(),
    ask: (line) => {
      const answer = next();
      stdin.write(`${line}\n`);
      return answer;
    },
    end: () => endChild(child, "SIGTERM", 5_000),
  };
}

export interface ContenderProcess {
  readonly name: string;
  readonly port: number;
  usage(): Promise<{ readonly cpu: number; readonly rss: number }>;
  /** What V8 saw of CPU or memory while `work` went on, as Chrome's developer tools read it. */
  profile(what: "profile" | "allocations", work: () => Promise<void>): Promise<string>;
  /** Makes handlers wait from now on, or lets them all go. */
  hold(isHeld: boolean): Promise<void>;
  /** Handlers that wait. */
  waiting(): Promise<number>;
  /** Bytes that are in use on V8's heap after a collection. Needs the flag --expose-gc. */
  heap(): Promise<number>;
  end(): Promise<void>;
}

export async function startContender(
  name: string,
  env: Readonly<Record<string, string>>,
  flags: readonly string[] = [],
): Promise<ContenderProcess> {
  const talker = startTalker("bench/http/server-main.ts", [name], env, flags);
  const port = Number(/^listening (\d+)$/.exec(await talker.first)?.[1]);
  return {
    name,
    port,
    usage: async () => JSON.parse((await talker.ask("usage")).replace(/^usage /, "")),
    hold: async (isHeld) => void (await talker.ask(isHeld ? "hold" : "release")),
    waiting: async () => Number((await talker.ask("waiting")).replace(/^waiting /, "")),
    heap: async () => Number((await talker.ask("heap")).replace(/^heap /, "")),
    profile: async (what, work) => {
      await talker.ask(what);
      await work();
      return talker.ask(`${what}-stop`);
    },
    end: () => talker.end(),
  };
}

export interface LoadProcess {
  run(order: LoadOrder): Promise<LoadResult>;
  /** Sends keys 1 to `count` of the order's prefix, so that they can be replayed. */
  store(order: LoadOrder, count: number): Promise<void>;
  /** Sends requests until the compiler has seen it all, whatever the order's `seconds`. */
  warm(order: LoadOrder, look?: (result: LoadResult) => void): Promise<void>;
  end(): Promise<void>;
}

/** What is measured is a server that has been up for a minute. The same number of requests for all contenders. */
const warmRequests = 10_000;
const warmSeconds = 3;
const mostWarmTurns = 10;

export async function startLoad(): Promise<LoadProcess> {
  const talker = startTalker("bench/http/load-main.ts", [], {});
  await talker.first;
  const run = async (order: LoadOrder): Promise<LoadResult> =>
    JSON.parse(await talker.ask(JSON.stringify(order))) as LoadResult;
  return {
    run,
    warm: async (order, look) => {
      let requests = 0;
      for (let turn = 0; turn < mostWarmTurns && requests < warmRequests; turn += 1) {
        // Replays ask for the same keys every time.
        const prefix = typeof order.keys === "object" ? order.prefix : `${order.prefix}-${turn}`;
        const result = await run({ ...order, prefix, seconds: warmSeconds });
        look?.(result);
        requests += result.requests;
      }
    },
    store: async (order, count) =>
      void (await talker.ask(JSON.stringify({ ...order, store: count }))),
    end: () => talker.end(),
  };
}

const ticksPerSecond = 100;

/** CPU seconds of a process and all its children, past ones included; Linux only, else NaN. */
export function cpuOf(pid: number): number {
  if (process.platform !== "linux") return Number.NaN;
  let ticks = 0;
  for (const name of readdirSync("/proc").filter((entry) => /^\d+$/.test(entry))) {
    const fields = statOf(name);
    if (fields === undefined) continue;
    const isIt = Number(name) === pid;
    if (isIt || Number(fields[1]) === pid) ticks += Number(fields[11]) + Number(fields[12]);
    if (isIt) ticks += Number(fields[13]) + Number(fields[14]);
  }
  return ticks / ticksPerSecond;
}

/** The fields after the name, from the state on. */
function statOf(pid: string): string[] | undefined {
  try {
    const line = readFileSync(`/proc/${pid}/stat`, "utf8");
    return line.slice(line.lastIndexOf(")") + 2).split(" ");
  } catch {
    return undefined;
  }
}
