/**
 * Ends a PostgreSQL that outlived the server which started it, so that one cluster is never run twice.
 *
 * It signals only processes that carry the cluster's name, which is derived from its path.
 */
import { createHash } from "node:crypto";
import { readdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as pause } from "node:timers/promises";

import { startOf } from "./data-owner.js";

/** A fast shutdown writes a checkpoint; after this the immediate one follows, which recovers at the next start. */
const fastShutdownMs = 20_000;
const immediateShutdownMs = 5_000;
const pollMs = 20;

/** The name that PostgreSQL shows in the title of each of its processes. */
export function clusterName(cluster: string): string {
  return `oncekey-${createHash("sha256").update(cluster).digest("hex").slice(0, 16)}`;
}

/** The lines of PostgreSQL's own pid file: the first is the pid, the eighth says when it is ready. */
export function pidFile(cluster: string): string[] {
  try {
    return readFileSync(join(cluster, "postmaster.pid"), "utf8").split("\n");
  } catch {
    return [];
  }
}

function signal(pid: number, name: NodeJS.Signals | 0): boolean {
  try {
    return process.kill(pid, name);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ESRCH") return false;
    throw error;
  }
}

/** Fast shutdown, then the immediate one. A frozen process is continued, or it would never see either. */
export async function shutDown(pid: number, hasEnded: () => boolean): Promise<void> {
  for (const [name, withinMs] of [
    ["SIGINT", fastShutdownMs],
    ["SIGQUIT", immediateShutdownMs],
  ] as const) {
    if (hasEnded() || !signal(pid, name)) return;
    signal(pid, "SIGCONT");
    const deadline = performance.now() + withinMs;
    while (!hasEnded() && performance.now() < deadline) await pause(pollMs);
  }
  if (!hasEnded()) throw new Error(`PostgreSQL (pid ${pid}) does not stop.`);
}

/** Every live process of the cluster, the postmaster's children too. Known from /proc only. */
function processesOf(cluster: string): number[] {
  const name = clusterName(cluster);
  const argument = `cluster_name=${name}`;
  return readdirSync("/proc")
    .filter((entry) => /^\d+$/.test(entry))
    .map(Number)
    .filter((pid) => {
      try {
        const line = readFileSync(`/proc/${pid}/cmdline`, "utf8");
        return line.startsWith(`postgres: ${name}: `) || line.split("\0").includes(argument);
      } catch {
        return false;
      }
    });
}

/**
 * Leaves a pid file of a dead process to PostgreSQL, except where the number is in use by something else: a zombie
 * that a container's first process never reaps, or a stranger after the container's restart. Those would keep
 * PostgreSQL from starting for good. Its interlock is void then, so backends that outlived their postmaster are
 * ended first.
 */
export async function endOrphan(cluster: string, log: (message: string) => void): Promise<void> {
  const pid = Number(pidFile(cluster)[0]);
  const start = startOf(pid);
  if (process.platform !== "linux") {
    // The file's second line, the data directory, has to do as proof.
    if (start !== undefined && pidFile(cluster)[1] === cluster)
      await endPostmaster(pid, start, log);
    return;
  }
  if (start !== undefined && processesOf(cluster).includes(pid))
    await endPostmaster(pid, start, log);
  for (const name of ["SIGQUIT", "SIGKILL"] as const) {
    for (const child of processesOf(cluster)) {
      signal(child, name);
      signal(child, "SIGCONT");
    }
    const deadline = performance.now() + immediateShutdownMs;
    while (processesOf(cluster).length > 0 && performance.now() < deadline) await pause(pollMs);
  }
  if (pid > 0 && signal(pid, 0)) rmSync(join(cluster, "postmaster.pid"), { force: true });
}

async function endPostmaster(
  pid: number,
  start: string,
  log: (message: string) => void,
): Promise<void> {
  log(`ending the PostgreSQL (pid ${pid}) that an earlier server left running`);
  await shutDown(pid, () => startOf(pid) !== start);
}
