/** A private PostgreSQL for tests: on a free port of 127.0.0.1, in a temporary folder, with fsync on. */
import { type ChildProcess, execFileSync, spawnSync } from "node:child_process";
import { closeSync, openSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";

import { findPostgres, type PostgresPrograms } from "./find-postgres.js";
import {
  endChild,
  exited,
  freePort,
  isRunning,
  removeDirectory,
  spawnChild,
  temporaryDirectory,
} from "./processes.js";
import { waitFor } from "./wait-for.js";

export type PostgresOptions = {
  /** More settings, by name; these win over the defaults. */
  settings?: Record<string, string>;
  /** Fills the data folder in place of initdb; it then belongs to the account. */
  fill?: (dataDir: string, programs: PostgresPrograms) => void;
};

export type PostgresServer = {
  /** The maintenance database of the superuser; stays the same over restarts. */
  readonly url: string;
  readonly port: number;
  /** The postmaster's pid of now. */
  readonly pid: number;
  readonly dataDir: string;
  /** `fast` rolls back what is open; `immediate` is a crash that PostgreSQL recovers from. The data stay. */
  stop(mode?: "fast" | "immediate"): Promise<void>;
  /** kill -9 of the postmaster; its children see that and end. */
  kill(): Promise<void>;
  /** SIGSTOP to the postmaster and all its children: sockets stay open and nothing answers. */
  freeze(): void;
  thaw(): void;
  /** Stops where needed, and starts on the same data and port. */
  restart(mode?: "fast" | "immediate"): Promise<void>;
  /** Stops and removes the data. Also done after the test file for what is left. */
  end(): Promise<void>;
};

const defaults: Record<string, string> = {
  listen_addresses: "127.0.0.1",
  unix_socket_directories: "",
  max_connections: "300",
  wal_level: "replica",
  timezone: "UTC",
  log_timezone: "UTC",
  log_min_messages: "warning",
};

/** For PostgreSQL's programs: nothing of what this machine prefers. */
export function postgresEnvironment(): NodeJS.ProcessEnv {
  const kept = Object.entries(process.env).filter(([name]) => !/^(PG|LC_|LANG)/.test(name));
  return { ...Object.fromEntries(kept), LC_ALL: "C" };
}

function initialise({ initdb, account }: PostgresPrograms, dataDir: string): void {
  const args = ["-D", dataDir, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C"];
  const { status, stdout, stderr, error } = spawnSync(initdb, [...args, "--no-sync"], {
    ...account,
    cwd: "/",
    env: postgresEnvironment(),
    encoding: "utf8",
  });
  if (status !== 0)
    throw new Error(`initdb failed (${status}):\n${stdout}${stderr}`, { cause: error });
}

function childrenOf(parent: number): number[] {
  if (process.platform !== "linux") {
    const table = execFileSync("ps", ["-A", "-o", "pid=,ppid="], { encoding: "utf8" });
    const rows = table.split("\n").map((row) => row.trim().split(/\s+/).map(Number));
    return rows.filter(([, ppid]) => ppid === parent).map(([pid]) => pid as number);
  }
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((pid) => {
      try {
        const line = readFileSync(`/proc/${pid}/stat`, "utf8");
        return Number(line.slice(line.lastIndexOf(")") + 2).split(" ")[1]) === parent;
      } catch {
        return false;
      }
    });
}

function signalAll(pids: number[], signal: NodeJS.Signals): void {
  for (const pid of pids) {
    try {
      process.kill(pid, signal);
    } catch {
      // A backend may end at any moment.
    }
  }
}

function exists(pid: number): boolean {
  try {
    return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, "utf8"));
  } catch {
    if (process.platform === "linux") return false;
  }
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}

/** Starts a PostgreSQL that belongs to the caller alone, to be stopped, frozen and killed at will. */
export async function startPostgres(options: PostgresOptions = {}): Promise<PostgresServer> {
  const programs = findPostgres();
  const folder = temporaryDirectory("postgres", programs.account);
  const dataDir = join(folder, "data");
  if (options.fill === undefined) initialise(programs, dataDir);
  else options.fill(dataDir, programs);
  const port = await freePort();
  const logFile = join(folder, "postgres.log");
  const settings = { ...defaults, ...options.settings };
  const args = ["-D", dataDir, "-p", String(port)];
  for (const [name, value] of Object.entries(settings)) args.push("-c", `${name}=${value}`);

  const pidLines = (): string[] => {
    try {
      return readFileSync(join(dataDir, "postmaster.pid"), "utf8").split("\n");
    } catch {
      return [];
    }
  };
  const start = async (): Promise<ChildProcess & { pid: number }> => {
    const output = openSync(logFile, "a");
    const child = spawnChild(programs.postgres, args, {
      ...programs.account,
      cwd: "/",
      env: postgresEnvironment(),
      detached: true,
      stdio: ["ignore", output, output],
    });
    closeSync(output);
    child.unref();
    const isReady = (): boolean =>
      pidLines()[0] === String(child.pid) && /^(ready|standby)\s*$/.test(pidLines()[7] ?? "");
    await waitFor(() => isReady() || !isRunning(child), { timeoutMs: 60_000, what: "PostgreSQL" });
    if (!isRunning(child)) throw new Error(`PostgreSQL ended:\n${readFileSync(logFile, "utf8")}`);
    return child;
  };

  let child = await start();
  const stop: PostgresServer["stop"] = (mode = "fast") =>
    endChild(child, mode === "fast" ? "SIGINT" : "SIGQUIT", 15_000);
  const thaw = (): void => signalAll([...childrenOf(child.pid), child.pid], "SIGCONT");
  return {
    url: `postgres://postgres@127.0.0.1:${port}/postgres`,
    port,
    get pid() {
      return child.pid;
    },
    dataDir,
    async stop(mode) {
      if (isRunning(child)) thaw();
      await stop(mode);
    },
    async kill() {
      const backends = childrenOf(child.pid);
      child.kill("SIGKILL");
      signalAll(backends, "SIGCONT");
      await exited(child);
      await waitFor(() => !backends.some(exists), { what: "the backends to end" });
    },
    freeze() {
      // The parent first, or it would start a child between the listing and the signal.
      child.kill("SIGSTOP");
      signalAll(childrenOf(child.pid), "SIGSTOP");
    },
    thaw,
    async restart(mode) {
      if (isRunning(child)) thaw();
      await stop(mode);
      child = await start();
    },
    async end() {
      if (isRunning(child)) thaw();
      await stop("immediate");
      removeDirectory(folder);
    },
  };
}
