/** Node programs as child processes: started, frozen and killed like the processes of a real deployment. */
import { type ChildProcess } from "node:child_process";
import { join } from "node:path";

import { compiledTree } from "./compiled-tree.js";
import { endChild, exited, isRunning, spawnChild } from "./processes.js";
import { waitFor } from "./wait-for.js";

export type ProcessOptions = {
  args?: readonly string[];
  /** Added to this process' environment; `undefined` takes a variable away. */
  env?: Record<string, string | undefined>;
  cwd?: string;
};

export type RunningProcess = {
  readonly pid: number;
  /** Standard output and standard error so far, in the order they came. */
  output(): string;
  /** Resolves with the match once the output matches; rejects with the output when the process ends first. */
  waitForOutput(pattern: RegExp, timeoutMs?: number): Promise<RegExpExecArray>;
  signal(name: NodeJS.Signals): void;
  freeze(): void;
  thaw(): void;
  /** SIGTERM; kill -9 where that takes more than ten seconds. Answers the exit code, null when killed. */
  stop(): Promise<number | null>;
  /** kill -9, and waits until it is gone. */
  kill(): Promise<void>;
  /** Waits for the process to end by itself; answers its exit code. */
  exited(timeoutMs?: number): Promise<number | null>;
};

export type ServerProcess = RunningProcess & {
  /** `http://127.0.0.1:<port>` */
  readonly url: string;
  readonly port: number;
};

const stopGraceMs = 10_000;

/**
 * Runs a TypeScript file of `src/` or `test/` (given relative to the repository, for instance
 * `test/chaos/programs/frozen-worker.ts`) in a Node of its own.
 */
export function startProgram(file: string, options: ProcessOptions = {}): RunningProcess {
  const tree = compiledTree();
  const script = join(tree, file.replace(/^src\//, "dist/esm/").replace(/\.ts$/, ".js"));
  const env: NodeJS.ProcessEnv = { ...process.env, NODE_ENV: "test" };
  for (const [name, value] of Object.entries(options.env ?? {}))
    if (value === undefined) delete env[name];
    else env[name] = value;
  const child = spawnChild(
    process.execPath,
    ["--enable-source-maps", script, ...(options.args ?? [])],
    { cwd: options.cwd ?? process.cwd(), env, stdio: ["ignore", "pipe", "pipe"] },
  );
  return control(child, file);
}

function control(child: ChildProcess & { pid: number }, name: string): RunningProcess {
  let text = "";
  child.stdout?.on("data", (chunk: Buffer) => (text += chunk.toString()));
  child.stderr?.on("data", (chunk: Buffer) => (text += chunk.toString()));
  return {
    pid: child.pid,
    output: () => text,
    async waitForOutput(pattern, timeoutMs = 15_000) {
      const found = await waitFor(() => pattern.exec(text) ?? !isRunning(child), {
        timeoutMs,
        what: `${name} to print ${pattern}`,
      }).catch((cause: unknown) => {
        throw new Error(`${name} did not print ${pattern}:\n${text}`, { cause });
      });
      const match = found === true ? pattern.exec(text) : found;
      if (match === null || match === false)
        throw new Error(`${name} ended (${child.exitCode}):\n${text}`);
      return match;
    },
    signal: (signal) => void child.kill(signal),
    freeze: () => void child.kill("SIGSTOP"),
    thaw: () => void child.kill("SIGCONT"),
    async stop() {
      await endChild(child, "SIGTERM", stopGraceMs);
      return child.exitCode;
    },
    kill: () => endChild(child, "SIGKILL"),
    async exited(timeoutMs) {
      await exited(child, timeoutMs);
      return child.exitCode;
    },
  };
}

const listening = /^oncekey is listening on http:\/\/\S+:(\d+)$/m;

/**
 * Starts `oncekey serve` on a free port and waits until `/readyz` answers 200. Set DATABASE_URL, REDIS_URL or
 * ONCEKEY_DATA_DIR in `env`: none of them is taken from this process.
 */
export async function startServer(options: ProcessOptions = {}): Promise<ServerProcess> {
  const running = startProgram("src/cli/main.ts", {
    ...options,
    args: ["serve", ...(options.args ?? [])],
    // Taken by the server itself: a port that was free a moment ago may be somebody else's by then.
    env: { DATABASE_URL: undefined, REDIS_URL: undefined, PORT: "0", ...options.env },
  });
  try {
    const [, port] = await running.waitForOutput(listening, 20_000);
    const url = `http://127.0.0.1:${port}`;
    await waitFor(
      async () => (await fetch(`${url}/readyz`, { signal: AbortSignal.timeout(2_000) })).ok,
      { timeoutMs: 60_000, what: `${url}/readyz` },
    );
    return { ...running, url, port: Number(port) };
  } catch (cause) {
    const output = running.output();
    await running.kill();
    throw new Error(`The server did not become ready:\n${output}`, { cause });
  }
}
