/** A private Redis for tests: on a free port of 127.0.0.1, keeping nothing on disk unless asked to. */
import { type ChildProcess, spawnSync } from "node:child_process";
import { connect } from "node:net";

import { findRedis, type RedisProgram } from "./find-redis.js";
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

export type RedisOptions = {
  /** Redis arguments without dashes, for instance `{ maxmemory: "2mb", appendonly: "yes" }`. */
  settings?: Record<string, string>;
};

export type RedisServer = {
  /** Stays the same over restarts. */
  readonly url: string;
  readonly port: number;
  /** The pid of now; with Docker that of its client. */
  readonly pid: number;
  stop(): Promise<void>;
  kill(): Promise<void>;
  /** SIGSTOP: connections are accepted by the kernel and nothing answers. */
  freeze(): void;
  thaw(): void;
  restart(): Promise<void>;
  /** Stops and removes the folder. Also done after the test file for what is left. */
  end(): Promise<void>;
};

/** Sends an inline PING. Without a driver, so that a driver's retries cannot hide a dead server. */
export async function redisAnswers(port: number, host = "127.0.0.1"): Promise<boolean> {
  return new Promise((done) => {
    const socket = connect({ port, host });
    const end = (answer: boolean): void => {
      socket.destroy();
      done(answer);
    };
    socket.setTimeout(1_000, () => end(false));
    socket.once("error", () => end(false));
    socket.once("connect", () => socket.write("PING\r\n"));
    // A server that asks for a password is up as well.
    socket.once("data", (data) => end(/^(\+PONG|-NOAUTH)/.test(data.toString("latin1"))));
  });
}

function start(program: RedisProgram, name: string, port: number, folder: string, args: string[]) {
  if (program.kind === "docker") {
    const publish = ["run", "--rm", "--name", name, "-p", `127.0.0.1:${port}:6379`];
    return spawnChild("docker", [...publish, program.image, "redis-server", ...args], {
      stdio: "ignore",
    });
  }
  const env = { ...process.env, LC_ALL: "C" } as NodeJS.ProcessEnv;
  if (program.libraryPath !== undefined) env["LD_LIBRARY_PATH"] = program.libraryPath;
  return spawnChild(
    program.path,
    ["--port", String(port), "--bind", "127.0.0.1", "--dir", folder, ...args],
    { env, cwd: folder, detached: true, stdio: "ignore" },
  );
}

/** Starts a Redis that belongs to the caller alone, to be stopped, frozen and killed at will. */
export async function startRedis(options: RedisOptions = {}): Promise<RedisServer> {
  const program = findRedis();
  const folder = temporaryDirectory("redis");
  const port = await freePort();
  const name = `oncekey-test-${port}`;
  const settings = { save: "", appendonly: "no", ...options.settings };
  const args = Object.entries(settings).flatMap(([key, value]) => [`--${key}`, value]);

  const launch = async (): Promise<ChildProcess & { pid: number }> => {
    const child = start(program, name, port, folder, args);
    child.unref();
    await waitFor(async () => !isRunning(child) || (await redisAnswers(port)), {
      timeoutMs: program.kind === "docker" ? 120_000 : 10_000,
      what: "Redis",
    });
    if (!isRunning(child)) throw new Error(`Redis ended with ${child.exitCode}.`);
    return child;
  };
  let child = await launch();
  const send = async (signal: NodeJS.Signals, docker: string[]): Promise<void> => {
    if (program.kind === "docker" && isRunning(child)) {
      spawnSync("docker", [...docker, name], { stdio: "ignore" });
      await exited(child);
    } else await endChild(child, signal);
  };
  const stop = (): Promise<void> => send("SIGTERM", ["stop"]);
  const suspend = (signal: "SIGSTOP" | "SIGCONT"): void => {
    if (program.kind === "binary") child.kill(signal);
    else spawnSync("docker", [signal === "SIGSTOP" ? "pause" : "unpause", name]);
  };
  return {
    url: `redis://127.0.0.1:${port}`,
    port,
    get pid() {
      return child.pid;
    },
    stop,
    kill: () => send("SIGKILL", ["kill"]),
    freeze: () => suspend("SIGSTOP"),
    thaw: () => suspend("SIGCONT"),
    async restart() {
      await stop();
      child = await launch();
    },
    async end() {
      await send("SIGKILL", ["kill"]);
      removeDirectory(folder);
    },
  };
}
