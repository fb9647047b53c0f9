/** A server of our own to measure, its memory and its processor time, and uploads to it. */
import { spawn } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { request } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";

export interface Server {
  readonly url: string;
  readonly pid: number;
  stop(): Promise<void>;
}

export async function startServer(): Promise<Server> {
  const folder = mkdtempSync(join(tmpdir(), "oncekey-bench-"));
  const child = spawn(process.execPath, ["dist/esm/cli/main.js", "serve"], {
    env: {
      ...process.env,
      PORT: "0",
      HOST: "127.0.0.1",
      LOG_LEVEL: "warn",
      ONCEKEY_DATA_DIR: join(folder, "data"),
    },
    stdio: ["ignore", "pipe", "inherit"],
  });
  const url = await new Promise<string>((resolve, reject) => {
    let said = "";
    child.stdout.on("data", (piece: Buffer) => {
      said += piece.toString();
      const found = /listening on (\S+)/.exec(said)?.[1];
      if (found !== undefined) resolve(found.replace("localhost", "127.0.0.1"));
    });
    child.once("exit", (code) => reject(new Error(`the server ended with ${code}`)));
  });
  return {
    url,
    pid: child.pid as number,
    stop: async () => {
      const ended = new Promise((resolve) => child.once("exit", resolve));
      child.kill("SIGTERM");
      await ended;
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

/** Resident memory of a process, in MB. */
export function residentMb(pid: number): number {
  const found = /VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, "utf8"));
  return Math.round(Number(found?.[1] ?? 0) / 1_024);
}

/**
 * Seconds of CPU of a process, and of its descendants: the embedded Postgres. On a machine that others share they say more than the
 * time on the wall.
 */
export function cpuSeconds(pid: number): { readonly own: number; readonly descendants: number } {
  const stats = readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .flatMap((name) => {
      try {
        const [, , rest = ""] =
          /^(.*\)) (.*)$/s.exec(readFileSync(`/proc/${name}/stat`, "utf8")) ?? [];
        const fields = rest.split(" ");
        // Fields 4, 14 and 15 of proc(5), behind the name; ticks are hundredths of a second on Linux.
        const seconds = (Number(fields[11]) + Number(fields[12])) / 100;
        return [{ pid: Number(name), parent: Number(fields[1]), seconds }];
      } catch {
        // It has ended since.
        return [];
      }
    });
  const sumBelow = (parent: number): number =>
    stats
      .filter((stat) => stat.parent === parent)
      .reduce((sum, stat) => sum + stat.seconds + sumBelow(stat.pid), 0);
  return { own: stats.find((stat) => stat.pid === pid)?.seconds ?? 0, descendants: sumBelow(pid) };
}

/** Uploads newline-delimited JSON and answers the summary. */
export async function upload(
  url: string,
  pieces: Iterable<Buffer> | AsyncIterable<Buffer>,
  more: Record<string, string> = {},
): Promise<Record<string, number>> {
  const headers = {
    Authorization: "Bearer sk_test_demo",
    "Content-Type": "application/x-ndjson",
    ...more,
  };
  const outgoing = request(`${url}/v1/events`, { method: "POST", headers });
  const answered = new Promise<string>((resolve, reject) => {
    outgoing.once("error", reject);
    outgoing.once("response", (incoming) => {
      let text = "";
      incoming.on("data", (piece: Buffer) => (text += piece.toString()));
      incoming.once("end", () => resolve(text));
    });
  });
  await pipeline(Readable.from(pieces, { objectMode: true, highWaterMark: 1 }), outgoing);
  return JSON.parse(await answered) as Record<string, number>;
}
