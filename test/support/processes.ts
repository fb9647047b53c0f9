/**
 * Owns every child process and temporary folder of a test file. A child is ended by its pid: by the test, by
 * `endEverything` after the file, or by the watchdog when this process itself dies.
 */
import { type ChildProcess, spawn, type SpawnOptions } from "node:child_process";
import { chmodSync, chownSync, mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";

import { waitFor } from "./wait-for.js";

export type Identity = { uid: number; gid: number };

const children = new Map<number, ChildProcess>();
const directories = new Set<string>();
let watchdog: ChildProcess | undefined;

function startWatchdog(): void {
  if (watchdog === undefined) {
    watchdog = spawn(process.execPath, [resolve("test/support/watchdog.cjs")], {
      detached: true,
      stdio: ["pipe", "ignore", "ignore"],
    });
    watchdog.unref();
    watchdog.stdin?.on("error", () => {});
    (watchdog.stdin as unknown as { unref?: () => void } | null)?.unref?.();
  }
}

function tellWatchdog(line: string): void {
  watchdog?.stdin?.write(`${line}\n`);
}

/** Starts a child that cannot outlive the tests. */
export function spawnChild(
  command: string,
  args: readonly string[],
  options: SpawnOptions = {},
): ChildProcess & { pid: number } {
  const child = spawn(command, args, options);
  child.on("error", () => {});
  const { pid } = child;
  if (pid === undefined) throw new Error(`${command} could not be started.`);
  children.set(pid, child);
  startWatchdog();
  tellWatchdog(`pid ${pid}`);
  child.once("exit", () => {
    children.delete(pid);
    tellWatchdog(`forget ${pid}`);
  });
  return child as ChildProcess & { pid: number };
}

export function isRunning(child: ChildProcess): boolean {
  return child.exitCode === null && child.signalCode === null;
}

/** Waits until the child has exited. */
export async function exited(child: ChildProcess, withinMs = 10_000): Promise<void> {
  await waitFor(() => !isRunning(child), { timeoutMs: withinMs, what: `pid ${child.pid} to exit` });
}

/** Sends a signal, continues the child in case it was frozen, waits, and kills it where the signal was not enough. */
export async function endChild(
  child: ChildProcess,
  signal: NodeJS.Signals = "SIGTERM",
  graceMs = 5_000,
): Promise<void> {
  if (!isRunning(child)) return;
  child.kill(signal);
  child.kill("SIGCONT");
  try {
    await exited(child, graceMs);
  } catch {
    child.kill("SIGKILL");
    await exited(child);
  }
}

/** A new folder under the system's temporary folder, removed at the end. */
export function temporaryDirectory(name: string, owner?: Identity): string {
  const directory = mkdtempSync(join(tmpdir(), `oncekey-${name}-`));
  directories.add(directory);
  startWatchdog();
  tellWatchdog(`directory ${directory}`);
  // As root, the embedded Postgres runs under another account and has to pass through.
  chmodSync(directory, 0o755);
  if (owner !== undefined) chownSync(directory, owner.uid, owner.gid);
  return directory;
}

export function removeDirectory(directory: string): void {
  rmSync(directory, { recursive: true, force: true, maxRetries: 5, retryDelay: 50 });
  if (directories.delete(directory)) tellWatchdog(`kept ${directory}`);
}

/** Ends every child and removes every folder that is left; runs after each test file. */
export async function endEverything(): Promise<void> {
  await Promise.all([...children.values()].map((child) => endChild(child, "SIGQUIT", 1_500)));
  for (const directory of directories) removeDirectory(directory);
  watchdog?.stdin?.end();
  watchdog = undefined;
}

/** A port of 127.0.0.1 that was free a moment ago. */
export async function freePort(): Promise<number> {
  return new Promise((done, fail) => {
    const server = createServer();
    server.once("error", fail);
    server.listen(0, "127.0.0.1", () => {
      const address = server.address();
      server.close(() => {
        if (address === null || typeof address === "string") fail(new Error("no port"));
        else done(address.port);
      });
    });
  });
}
