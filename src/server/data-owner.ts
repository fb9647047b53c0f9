/**
 * Says which process owns a data directory, so that two servers never run on one.
 *
 * A pid alone proves nothing: after a restart of a container another process has the same one. An owner is
 * therefore a pid together with the moment that process started.
 */
import { execFileSync } from "node:child_process";
import { linkSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";

/** How often a claim is tried while other processes start or die at the same moment. */
const attempts = 5;

/** When the process started, in the system's own words; undefined where there is no such process. */
export function startOf(pid: number): string | undefined {
  if (!Number.isSafeInteger(pid) || pid <= 0) return undefined;
  try {
    process.kill(pid, 0);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ESRCH") return undefined;
  }
  try {
    // proc(5): field 22 is the start; the second field may hold spaces and ends with the last parenthesis.
    // A zombie has ended already and only waits for its parent to notice.
    const line = readFileSync(`/proc/${pid}/stat`, "utf8");
    const fields = line.slice(line.lastIndexOf(")") + 2).split(" ");
    return fields[0] === "Z" ? undefined : fields[19];
  } catch {
    // Not Linux, or just gone.
  }
  try {
    const command = ["-o", "lstart=", "-p", String(pid)];
    const started = execFileSync("ps", command, { stdio: ["ignore", "pipe", "ignore"] });
    return started.toString().trim() || undefined;
  } catch {
    return process.platform === "win32" ? "unknown" : undefined;
  }
}

function read(path: string): string | undefined {
  try {
    return readFileSync(path, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}

/** Makes this process the owner. Throws where another live process is. Answers the function that gives it back. */
export function ownDirectory(dataDir: string): () => void {
  const path = join(dataDir, "owner");
  const mine = `${process.pid} ${startOf(process.pid)}\n`;
  for (let attempt = 0; attempt < attempts; attempt += 1) {
    try {
      writeFileSync(path, mine, { flag: "wx", mode: 0o600 });
      return () => {
        if (read(path) === mine) rmSync(path, { force: true });
      };
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
    }
    const theirs = read(path);
    if (theirs === undefined) continue;
    const [pid, start] = theirs
      .trim()
      .split(" ", 1)
      .concat(theirs.trim().replace(/^\S+ ?/, ""));
    if (start !== "" && startOf(Number(pid)) === start) {
      throw new Error(
        `Another oncekey server (pid ${pid}) is using ${dataDir}. Stop it, give this one its own ` +
          "ONCEKEY_DATA_DIR, or let both share a PostgreSQL by setting DATABASE_URL.",
      );
    }
    retire(path, theirs);
  }
  throw new Error(`${dataDir} could not be claimed: other servers start and stop on it.`);
}

/** Takes a dead owner's file away, and puts it back if it turns out to be a live one that came in between. */
function retire(path: string, expected: string): void {
  const aside = `${path}.${process.pid}`;
  try {
    renameSync(path, aside);
    if (read(aside) !== expected) linkSync(aside, path);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code !== "ENOENT" && code !== "EEXIST") throw error;
  } finally {
    rmSync(aside, { force: true });
  }
}
