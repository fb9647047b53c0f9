/**
 * Runs a real PostgreSQL for a server that was given no DATABASE_URL, with its data on disk.
 *
 * fsync stays on: what was acknowledged survives kill -9 and a power cut. It listens on 127.0.0.1 only, behind a
 * random password. A PostgreSQL that outlived a killed server is shut down by its pid before a new one starts.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { randomBytes, randomUUID } from "node:crypto";
import {
  chmodSync,
  chownSync,
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { setTimeout as pause } from "node:timers/promises";

import { ownDirectory } from "./data-owner.js";
import { type Account, canEnter, embeddedBinaries, serverAccount } from "./embedded-binaries.js";
import { clusterName, endOrphan, pidFile, shutDown } from "./orphan.js";

export type EmbeddedOptions = {
  /** Created where missing. Holds the cluster, its password (mode 0600) and its log. */
  dataDir: string;
  log?: (message: string) => void;
  /** Default: PostgreSQL's own, 100. */
  maxConnections?: number;
};

export type EmbeddedPostgres = {
  url: string;
  pid: number;
  /** Fast shutdown: open transactions roll back, nothing committed is lost. */
  stop(): Promise<void>;
};

const user = "oncekey";
/** Crash recovery of a large log may take a while; a healthy start takes well under a second. */
const startTimeoutMs = 60_000;
const pollMs = 20;
/** Another process may take the free port between asking and binding. */
const portAttempts = 3;

/**
 * Starts PostgreSQL on `dataDir`. Throws where the binaries are missing, where another live server owns the
 * directory, and where PostgreSQL does not come up (the error carries the end of its log).
 */
export async function startEmbeddedPostgres(options: EmbeddedOptions): Promise<EmbeddedPostgres> {
  const log = options.log ?? (() => {});
  const account = serverAccount();
  mkdirSync(options.dataDir, { recursive: true });
  const dataDir = realpathSync(options.dataDir);
  const disown = ownDirectory(dataDir);
  try {
    const home = clusterHome(dataDir, account, log);
    const cluster = join(home, "postgres");
    const binaries = embeddedBinaries(home, account);
    const password = readOrMakePassword(dataDir);
    await endOrphan(cluster, log);
    if (!existsSync(cluster)) await initialise(binaries.initdb, home, cluster, password, account);
    const { child, port } = await launch(binaries.postgres, home, cluster, account, options);
    const url = `postgres://${user}:${password}@127.0.0.1:${port}/postgres`;
    const stop = async (): Promise<void> => {
      await shutDown(child.pid as number, () => hasEnded(child));
      disown();
    };
    return { url, pid: child.pid as number, stop };
  } catch (error) {
    disown();
    throw error;
  }
}

/** Where the cluster lies: in the data directory, unless PostgreSQL's account cannot get there (say, under /root). */
function clusterHome(
  dataDir: string,
  account: Account | undefined,
  log: (message: string) => void,
): string {
  if (canEnter(dataDir, account)) return dataDir;
  const pointer = join(dataDir, "cluster-location");
  if (!existsSync(pointer)) writeFileSync(pointer, join("/var/lib/oncekey", randomUUID()));
  const home = readFileSync(pointer, "utf8").trim();
  mkdirSync(home, { recursive: true });
  log(
    `PostgreSQL does not run as root and its account cannot enter ${dataDir}; data is in ${home}`,
  );
  return home;
}

function readOrMakePassword(dataDir: string): string {
  const path = join(dataDir, "password");
  if (!existsSync(path)) writeFileSync(path, randomBytes(24).toString("hex"), { mode: 0o600 });
  chmodSync(path, 0o600);
  return readFileSync(path, "utf8");
}

/** Makes the cluster beside its place and renames it, so that an interrupted initdb leaves nothing half-made. */
async function initialise(
  initdb: string,
  home: string,
  cluster: string,
  password: string,
  account: Account | undefined,
): Promise<void> {
  const unfinished = `${cluster}.unfinished`;
  const passwordFile = join(home, "initdb-password");
  rmSync(unfinished, { recursive: true, force: true });
  mkdirSync(unfinished, { mode: 0o700 });
  rmSync(passwordFile, { force: true });
  writeFileSync(passwordFile, password, { mode: 0o600 });
  if (account !== undefined) {
    chownSync(unfinished, account.uid, account.gid);
    chownSync(passwordFile, account.uid, account.gid);
  }
  const args = ["-D", unfinished, "-U", user, "-A", "scram-sha-256", `--pwfile=${passwordFile}`];
  args.push("-E", "UTF8", "--locale=C", "--no-instructions");
  let output = "";
  try {
    const child = spawn(initdb, args, { ...account, cwd: "/", env: serverEnvironment() });
    child.stdout.on("data", (chunk: Buffer) => (output += chunk.toString()));
    child.stderr.on("data", (chunk: Buffer) => (output += chunk.toString()));
    const code = await new Promise<number | null>((done, fail) => {
      child.once("error", fail);
      child.once("close", done);
    });
    if (code !== 0) throw new Error(`initdb ended with ${code}:\n${output}`);
  } finally {
    rmSync(passwordFile, { force: true });
  }
  renameSync(unfinished, cluster);
}

/** A C locale and no PG* variable of the caller's shell: those would point the server's programs elsewhere. */
function serverEnvironment(): NodeJS.ProcessEnv {
  const kept = Object.entries(process.env).filter(([name]) => !/^(PG|LC_|LANG)/.test(name));
  return { ...Object.fromEntries(kept), LC_ALL: "C", TZ: "UTC" };
}

async function launch(
  postgres: string,
  home: string,
  cluster: string,
  account: Account | undefined,
  { maxConnections }: Pick<EmbeddedOptions, "maxConnections">,
): Promise<{ child: ChildProcess; port: number }> {
  const logFile = join(home, "postgres.log");
  const name = clusterName(cluster);
  let tail = "";
  for (let attempt = 0; attempt < portAttempts; attempt += 1) {
    const port = await freePort();
    const args = ["-D", cluster, "-p", String(port), "-c", "listen_addresses=127.0.0.1"];
    args.push("-c", "unix_socket_directories=", "-c", "timezone=UTC", "-c", "log_timezone=UTC");
    args.push("-c", `cluster_name=${name}`);
    if (maxConnections !== undefined) args.push("-c", `max_connections=${maxConnections}`);
    const output = openSync(logFile, "a", 0o600);
    // Its own process group: Ctrl-C in a terminal reaches the server, which stops PostgreSQL when it has drained.
    const child = spawn(postgres, args, {
      ...account,
      cwd: "/",
      env: serverEnvironment(),
      detached: true,
      stdio: ["ignore", output, output],
    });
    closeSync(output);
    child.unref();
    const failure = new Promise<Error>((done) => {
      child.once("error", done);
      child.once("exit", (code) => done(new Error(`PostgreSQL ended with ${code}`)));
    });
    const problem = await Promise.race([failure, ready(cluster, child)]);
    if (problem === undefined) return { child, port };
    tail = `${problem.message}\n${existsSync(logFile) ? readFileSync(logFile, "utf8").slice(-2_000) : ""}`;
    if (!tail.includes("could not bind")) break;
  }
  throw new Error(`The embedded PostgreSQL did not start: ${tail}`);
}

/** PostgreSQL writes its state to line 8 of postmaster.pid; pg_ctl waits in the same way. */
async function ready(cluster: string, child: ChildProcess): Promise<Error | undefined> {
  const deadline = performance.now() + startTimeoutMs;
  while (performance.now() < deadline && !hasEnded(child)) {
    const lines = pidFile(cluster);
    if (lines[0] === String(child.pid) && lines[7]?.trim() === "ready") return undefined;
    await pause(pollMs);
  }
  child.kill("SIGQUIT");
  return new Error(`PostgreSQL was not ready within ${startTimeoutMs} ms`);
}

function hasEnded(child: ChildProcess): boolean {
  return child.exitCode !== null || child.signalCode !== null;
}

async function freePort(): Promise<number> {
  return new Promise((done, fail) => {
    const server = createServer();
    server.once("error", fail);
    server.listen(0, "127.0.0.1", () => {
      const address = server.address();
      server.close(() => done(typeof address === "object" && address !== null ? address.port : 0));
    });
  });
}
