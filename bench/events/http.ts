/**
 * Uploads over HTTP: newline-delimited JSON in, durable out, into one server process. `npm run bench:ingest`; the generator and the
 * server share the machine, and the generator's own time is told.
 *
 *   EVENTS (default 1000000), VERSION (4 or 7; default both), DATABASE_URL (default: a Postgres of the server's own)
 */
import { spawn } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { request } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { eventLines } from "./generate.js";

const count = Number(process.env["EVENTS"] ?? 1_000_000);
const versions = process.env["VERSION"] === undefined ? [7, 4] : [Number(process.env["VERSION"])];

interface Server {
  readonly url: string;
  readonly pid: number;
  stop(): Promise<void>;
}

async function startServer(): Promise<Server> {
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
function residentMb(pid: number): number {
  const found = /VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, "utf8"));
  return Math.round(Number(found?.[1] ?? 0) / 1_024);
}

/**
 * Seconds of CPU of a process, and of its descendants: the embedded Postgres. On a machine that others share they say more than the
 * time on the wall.
 */
function cpuSeconds(pid: number): { readonly own: number; readonly descendants: number } {
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

async function upload(url: string, lines: Iterable<Buffer>): Promise<Record<string, number>> {
  const headers = { Authorization: "Bearer sk_test_demo", "Content-Type": "application/x-ndjson" };
  const outgoing = request(`${url}/v1/events`, { method: "POST", headers });
  const answered = new Promise<string>((resolve, reject) => {
    outgoing.once("error", reject);
    outgoing.once("response", (incoming) => {
      let text = "";
      incoming.on("data", (piece: Buffer) => (text += piece.toString()));
      incoming.once("end", () => resolve(text));
    });
  });
  await pipeline(Readable.from(lines, { objectMode: true, highWaterMark: 1 }), outgoing);
  return JSON.parse(await answered) as Record<string, number>;
}

async function measure(version: 4 | 7): Promise<void> {
  const plan = { count, version, perMilleAgain: 100, seed: 42 };
  const madeAt = performance.now();
  let bytes = 0;
  for (const piece of eventLines(plan)) bytes += piece.length;
  const makingMs = performance.now() - madeAt;
  const server = await startServer();
  try {
    // Connections, types and compiled code are there when the clock starts.
    await upload(server.url, eventLines({ ...plan, count: 20_000, seed: 7 }));
    const before = residentMb(server.pid);
    let most = before;
    const watch = setInterval(() => (most = Math.max(most, residentMb(server.pid))), 100);
    const cpuBefore = cpuSeconds(server.pid);
    const mineBefore = process.cpuUsage();
    const startedAt = performance.now();
    const summary = await upload(server.url, eventLines(plan));
    const ms = performance.now() - startedAt;
    clearInterval(watch);
    const cpu = cpuSeconds(server.pid);
    const mine = process.cpuUsage(mineBefore);
    const perEvent = (seconds: number): string => `${((seconds * 1e6) / count).toFixed(1)} µs`;
    const rate = Math.round((count / ms) * 1_000);
    console.log(
      `UUIDv${version}: ${count} events, ${Math.round(bytes / 1e6)} MB in ${(ms / 1_000).toFixed(1)} s: ${rate} events/s ` +
        `(making them takes ${(makingMs / 1_000).toFixed(1)} s). Server: ${before} MB before, ${most} MB at most.`,
    );
    console.log(
      `  CPU for each event: server ${perEvent(cpu.own - cpuBefore.own)}, Postgres ${perEvent(cpu.descendants - cpuBefore.descendants)}, ` +
        `client ${perEvent((mine.user + mine.system) / 1e6)}.`,
    );
    console.log(`  ${JSON.stringify({ ...summary, errors: undefined })}`);
  } finally {
    await server.stop();
  }
}

for (const version of versions) await measure(version === 4 ? 4 : 7);
