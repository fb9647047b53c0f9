/**
 * Programs of the distribution's packages, unpacked into a folder of this user once per machine, without installing anything.
 */
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

export type UnpackedProgram = { path: string; libraryPath: string };

export type DebianProgram = {
  /** Names the cache folder. */
  name: string;
  packages: string[];
  /** The program's place inside the package. */
  program: string;
};

/** A package's libraries may need libraries of their own; on Debian 12, two rounds were enough for a server, four for a browser. */
const dependencyRounds = 8;

export function runCommand(
  command: string,
  args: string[],
  cwd?: string,
): { ok: boolean; output: string } {
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
  if (runCommand("apt-get", args, folder).ok) return true;
  if (process.getuid?.() !== 0 || !runCommand("apt-get", ["update"]).ok) return false;
  return runCommand("apt-get", args, folder).ok;
}

function unpackAll(debs: string, root: string): void {
  for (const deb of readdirSync(debs).filter((name) => name.endsWith(".deb")))
    if (!runCommand("dpkg-deb", ["-x", join(debs, deb), root]).ok)
      throw new Error(`cannot unpack ${deb}`);
}

/** Packages that the unpacked ones depend on and that are not installed here. */
function missingPackages(debs: string): string[] {
  const names = new Set<string>();
  for (const deb of readdirSync(debs)) {
    const { output } = runCommand("dpkg-deb", ["-f", join(debs, deb), "Depends"]);
    for (const entry of output.split(/[,|]/)) {
      const name = /^\s*([a-z0-9][a-z0-9.+-]*)/.exec(entry)?.[1];
      if (name?.startsWith("lib")) names.add(name);
    }
  }
  const here = readdirSync(debs).map((deb) => deb.split("_")[0]);
  return [...names].filter(
    (name) => !here.includes(name) && !runCommand("dpkg-query", ["-W", name]).ok,
  );
}

/** A library may keep others in a folder of its own, as lib/x86_64-linux-gnu/pulseaudio. */
function libraryFolders(root: string): string {
  const below = (folder: string, depth: number): string[] => {
    const entries = existsSync(folder) ? readdirSync(folder, { withFileTypes: true }) : [];
    const inner = depth === 0 ? [] : entries.filter((entry) => entry.isDirectory());
    const holdsLibraries = entries.some(({ name }) => /\.so(?:\.|$)/.test(name));
    return [
      ...(holdsLibraries ? [folder] : []),
      ...inner.flatMap(({ name }) => below(join(folder, name), depth - 1)),
    ];
  };
  return ["usr/lib", "lib"].flatMap((lib) => below(join(root, lib), 2)).join(":");
}

function starts(path: string, libraryPath: string): boolean {
  const env = { ...process.env, LD_LIBRARY_PATH: libraryPath };
  return spawnSync(path, ["--version"], { env }).status === 0;
}

function found(root: string, program: string): UnpackedProgram | undefined {
  const path = join(root, program);
  const libraryPath = libraryFolders(root);
  return existsSync(path) && starts(path, libraryPath) ? { path, libraryPath } : undefined;
}

/** Unpacks a program and the libraries it lacks; undefined where this is no Debian or no mirror is in reach. */
export function unpackDebian(wanted: DebianProgram): UnpackedProgram | undefined {
  if (onPath("apt-get") === undefined || onPath("dpkg-deb") === undefined) return undefined;
  const caches = process.env["XDG_CACHE_HOME"] ?? tmpdir();
  const cache = join(caches, `oncekey-test-${wanted.name}-${arch()}-${userInfo().uid}`);
  // The folder's name is known to every user of the machine: programs in somebody else's are not run.
  if (existsSync(cache) && statSync(cache).uid !== userInfo().uid) return undefined;
  const cached = found(cache, wanted.program);
  if (cached !== undefined) return cached;

  mkdirSync(caches, { recursive: true });
  const work = mkdtempSync(join(caches, "oncekey-unpack-"));
  const [debs, root] = [join(work, "debs"), join(work, "root")];
  try {
    mkdirSync(debs);
    if (!download(wanted.packages, debs)) return undefined;
    for (let round = 0; round < dependencyRounds; round += 1) {
      unpackAll(debs, root);
      if (found(root, wanted.program) !== undefined) break;
      const missing = missingPackages(debs);
      if (missing.length === 0 || !download(missing, debs)) return undefined;
    }
    if (found(root, wanted.program) === undefined) return undefined;
    try {
      renameSync(root, cache);
    } catch {
      // Another run was faster, or an unusable folder is in the way; the first is as good as ours.
      if (found(cache, wanted.program) === undefined) {
        rmSync(cache, { recursive: true, force: true });
        renameSync(root, cache);
      }
    }
    return found(cache, wanted.program);
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}
