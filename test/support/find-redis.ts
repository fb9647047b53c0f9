/** Finds a Redis for tests: on PATH, else unpacked from the distribution's packages, else by Docker. */
import { spawnSync } from "node:child_process";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  renameSync,
  rmSync,
  statSync,
} from "node:fs";
import { arch, tmpdir, userInfo } from "node:os";
import { join } from "node:path";

import { onPath } from "./find-postgres.js";

export type RedisProgram =
  | { kind: "binary"; path: string; libraryPath: string | undefined }
  | { kind: "docker"; image: string };

const nowhere =
  "The tests need a real Redis and found none. Any one of these will do: REDIS_URL naming a server that may be " +
  "flushed; redis-server or valkey-server on PATH; Debian or Ubuntu with a package mirror in reach (the package is " +
  "downloaded and unpacked into a cache folder, without installing it); a running Docker engine.";

const image = "redis:7-alpine";
/** A package's libraries may need libraries of their own; two rounds were enough on Debian 12. */
const dependencyRounds = 4;

function run(command: string, args: string[], cwd?: string): { ok: boolean; output: string } {
  const result = spawnSync(command, args, {
    encoding: "utf8",
    timeout: 120_000,
    ...(cwd && { cwd }),
  });
  return { ok: result.status === 0, output: `${result.stdout ?? ""}${result.stderr ?? ""}` };
}

/** apt downloads into the working directory and needs no root; refreshing its lists does. */
function download(packages: string[], folder: string): boolean {
  const args = ["-o", "APT::Sandbox::User=root", "download", ...packages];
  if (run("apt-get", args, folder).ok) return true;
  if (process.getuid?.() !== 0 || !run("apt-get", ["update"]).ok) return false;
  return run("apt-get", args, folder).ok;
}

function unpackAll(debs: string, root: string): void {
  for (const deb of readdirSync(debs).filter((name) => name.endsWith(".deb")))
    if (!run("dpkg-deb", ["-x", join(debs, deb), root]).ok) throw new Error(`cannot unpack ${deb}`);
}

/** Packages that the unpacked ones depend on and that are not installed here. */
function missingPackages(debs: string): string[] {
  const names = new Set<string>();
  for (const deb of readdirSync(debs)) {
    const { output } = run("dpkg-deb", ["-f", join(debs, deb), "Depends"]);
    for (const entry of output.split(/[,|]/)) {
      const name = /^\s*([a-z0-9][a-z0-9.+-]*)/.exec(entry)?.[1];
      if (name?.startsWith("lib")) names.add(name);
    }
  }
  const here = readdirSync(debs).map((deb) => deb.split("_")[0]);
  return [...names].filter((name) => !here.includes(name) && !run("dpkg-query", ["-W", name]).ok);
}

function libraryFolders(root: string): string {
  const folders = ["usr/lib", "lib"].flatMap((lib) => {
    const base = join(root, lib);
    if (!existsSync(base)) return [];
    const inner = readdirSync(base, { withFileTypes: true });
    return [
      base,
      ...inner.filter((entry) => entry.isDirectory()).map((entry) => join(base, entry.name)),
    ];
  });
  return folders.join(":");
}

function starts(path: string, libraryPath: string): boolean {
  const env = { ...process.env, LD_LIBRARY_PATH: libraryPath };
  return spawnSync(path, ["--version"], { env }).status === 0;
}

function found(root: string): RedisProgram | undefined {
  const path = join(root, "usr/bin/redis-server");
  const libraryPath = libraryFolders(root);
  return existsSync(path) && starts(path, libraryPath)
    ? { kind: "binary", path, libraryPath }
    : undefined;
}

/** Unpacks redis-server and the libraries it lacks into a folder of this user, once per machine. */
function fromPackages(): RedisProgram | undefined {
  if (onPath("apt-get") === undefined || onPath("dpkg-deb") === undefined) return undefined;
  const caches = process.env["XDG_CACHE_HOME"] ?? tmpdir();
  const cache = join(caches, `oncekey-test-redis-${arch()}-${userInfo().uid}`);
  // The folder's name is known to every user of the machine: programs in somebody else's are not run.
  if (existsSync(cache) && statSync(cache).uid !== userInfo().uid) return undefined;
  const cached = found(cache);
  if (cached !== undefined) return cached;

  mkdirSync(caches, { recursive: true });
  const work = mkdtempSync(join(caches, "oncekey-unpack-"));
  const [debs, root] = [join(work, "debs"), join(work, "root")];
  try {
    mkdirSync(debs);
    if (!download(["redis-server", "redis-tools"], debs)) return undefined;
    for (let round = 0; round < dependencyRounds; round += 1) {
      unpackAll(debs, root);
      if (found(root) !== undefined) break;
      const missing = missingPackages(debs);
      if (missing.length === 0 || !download(missing, debs)) return undefined;
    }
    if (found(root) === undefined) return undefined;
    try {
      renameSync(root, cache);
    } catch {
      // Another run was faster, or an unusable folder is in the way; the first is as good as ours.
      if (found(cache) === undefined) {
        rmSync(cache, { recursive: true, force: true });
        renameSync(root, cache);
      }
    }
    return found(cache);
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

export function findRedis(): RedisProgram {
  const path = onPath("redis-server") ?? onPath("valkey-server");
  if (path !== undefined) return { kind: "binary", path, libraryPath: undefined };
  const unpacked = fromPackages();
  if (unpacked !== undefined) return unpacked;
  if (onPath("docker") !== undefined && run("docker", ["info"]).ok)
    return { kind: "docker", image };
  throw new Error(nowhere);
}
