/**
 * One upload of some gigabytes, plain and packed, and the most memory that the server takes for it. Run by hand:
 * `npm run bench:large-body`. Most of the events are sent again and again, so that the table stays small.
 *
 *   BODY_GB (default 3)
 */
import { gzipSync } from "node:zlib";
import { cpuSeconds, residentMb, startServer, upload } from "./server.js";

const bodyBytes = Number(process.env["BODY_GB"] ?? 3) * 1e9;
const distinct = 32_000;
const pieceBytes = 256 * 1024;

/** Long fields, and white space, which JSON allows: a gigabyte is half a million lines. */
function makeLines(): Buffer {
  const lines = Array.from({ length: distinct }, (_, index) => {
    const event = {
      event_id: `order-${index}-${"x".repeat(200)}`,
      merchant_id: `merchant-${index % 100}-${"y".repeat(40)}`,
      amount: index,
      currency: "eur",
      occurred_at: `2026-01-${String(1 + (index % 28)).padStart(2, "0")}T12:00:00Z`,
    };
    return JSON.stringify(event).replace('"amount":', `"amount":${" ".repeat(1_600)}`);
  });
  return Buffer.from(`${lines.join("\n")}\n`);
}

function* again(block: Buffer, times: number): Generator<Buffer> {
  for (let time = 0; time < times; time += 1)
    for (let at = 0; at < block.length; at += pieceBytes) yield block.subarray(at, at + pieceBytes);
}

const lines = makeLines();
const times = Math.ceil(bodyBytes / lines.length);
// Members of gzip stand one behind the other (RFC 1952, section 2.2).
const packed = gzipSync(lines);
for (const [encoding, block] of [
  ["identity", lines],
  ["gzip", packed],
] as const) {
  const server = await startServer();
  try {
    const before = residentMb(server.pid);
    let most = before;
    const watch = setInterval(() => (most = Math.max(most, residentMb(server.pid))), 100);
    const cpuBefore = cpuSeconds(server.pid).own;
    const startedAt = performance.now();
    const summary = await upload(server.url, again(block, times), { "Content-Encoding": encoding });
    const seconds = (performance.now() - startedAt) / 1_000;
    clearInterval(watch);
    const told = {
      encoding,
      sentMb: Math.round((block.length * times) / 1e6),
      unpackedMb: Math.round((lines.length * times) / 1e6),
      seconds: Math.round(seconds),
      serverCpuSeconds: Math.round(cpuSeconds(server.pid).own - cpuBefore),
      residentMbBefore: before,
      residentMbAtMost: most,
      ...summary,
      errors: undefined,
    };
    console.log(JSON.stringify(told));
  } finally {
    await server.stop();
  }
}
