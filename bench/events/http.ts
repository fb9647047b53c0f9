/**
 * Uploads over HTTP: newline-delimited JSON in, durable out, into one server process. `npm run bench:ingest`; the client and the
 * server share the machine. The body is made before, into a file. Writes bench/results/ingest.json.
 *
 *   EVENTS (default 1000000), VERSION (4 or 7; default both), DATABASE_URL (default: a Postgres of the server's own)
 */
import {
  createReadStream,
  createWriteStream,
  mkdtempSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { eventLines } from "./generate.js";
import type { EventLines } from "./generate.js";
import { cpuSeconds, residentMb, startServer, upload } from "./server.js";

const count = Number(process.env["EVENTS"] ?? 1_000_000);
const versions = process.env["VERSION"] === undefined ? [7, 4] : [Number(process.env["VERSION"])];

interface Result {
  readonly version: 4 | 7;
  readonly events: number;
  readonly megabytes: number;
  readonly eventsPerSecond: number;
  /** CPU of each event, in µs; on a machine that others share it says more than the time on the wall. */
  readonly serverMicros: number;
  readonly postgresMicros: number;
  readonly clientMicros: number;
  readonly residentMbBefore: number;
  readonly residentMbAtMost: number;
}

async function makeFile(folder: string, plan: EventLines): Promise<string> {
  const file = join(folder, "events.ndjson");
  await pipeline(Readable.from(eventLines(plan)), createWriteStream(file));
  return file;
}

async function measure(version: 4 | 7, folder: string): Promise<Result> {
  const plan = { count, version, perMilleAgain: 100, seed: 42 };
  const file = await makeFile(folder, plan);
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
    const summary = await upload(server.url, createReadStream(file, { highWaterMark: 256 * 1024 }));
    const ms = performance.now() - startedAt;
    clearInterval(watch);
    const cpu = cpuSeconds(server.pid);
    const mine = process.cpuUsage(mineBefore);
    if (summary["accepted"] !== count) throw new Error(`stored were ${JSON.stringify(summary)}`);
    const perEvent = (seconds: number): number => Math.round((seconds * 1e7) / count) / 10;
    return {
      version,
      events: count,
      megabytes: Math.round(statSync(file).size / 1e6),
      eventsPerSecond: Math.round((count / ms) * 1_000),
      serverMicros: perEvent(cpu.own - cpuBefore.own),
      postgresMicros: perEvent(cpu.descendants - cpuBefore.descendants),
      clientMicros: perEvent((mine.user + mine.system) / 1e6),
      residentMbBefore: before,
      residentMbAtMost: most,
    };
  } finally {
    await server.stop();
  }
}

const folder = mkdtempSync(join(tmpdir(), "oncekey-bodies-"));
try {
  const results: Result[] = [];
  for (const version of versions) {
    const result = await measure(version === 4 ? 4 : 7, folder);
    results.push(result);
    console.log(JSON.stringify(result));
  }
  const about =
    "Uploads over HTTP into one server process; see docs/events.md. npm run bench:ingest";
  const text = JSON.stringify({ about, node: process.version, results }, undefined, 2);
  writeFileSync("bench/results/ingest.json", `${text}\n`);
} finally {
  rmSync(folder, { recursive: true, force: true });
}
