/**
 * `npm run chaos:events`: EVENTS (20,000,000) events, one to two in twenty of them sent again, through three writers of which one is
 * killed every KILL_SECONDS (5), over a server that is restarted twice. EVENTS_MODE: `plain` (default), or
 * `versions`, which does it in two orders and compares the tables.
 */
import { startPostgres } from "../support/postgres-server.js";
import { eventStorm } from "./event-storm.js";
import type { Mode } from "./event-stream.js";

const events = Number(process.env["EVENTS"] ?? 20_000_000);
const killSeconds = Number(process.env["KILL_SECONDS"] ?? 5);
const mode = (process.env["EVENTS_MODE"] ?? "plain") as Mode;

test(`${events} events, each once`, async () => {
  const server = await startPostgres({ settings: { shared_buffers: "1GB", max_wal_size: "8GB" } });
  const storm = async (table: string, isReversed: boolean): Promise<string> => {
    const report = await eventStorm({
      server,
      mode,
      events,
      chunkEvents: 100_000,
      batchRows: 10_000,
      killEveryMs: killSeconds * 1_000,
      recomputeEveryMs: 20_000,
      restartAt: [0.3, 0.6],
      table,
      isReversed,
    });
    process.stdout.write(`${JSON.stringify(report, undefined, 2)}\n`);
    expect(report.found).toEqual(report.expected);
    expect(report.aggregate.wrong).toBe(0);
    expect(report.aggregate.rows).toBeGreaterThan(0);
    expect(report.restarts).toBe(2);
    expect(report.kills).toBeGreaterThan(0);
    return report.checksum;
  };
  const checksum = await storm("events", false);
  // Without versions copies are equal, and an order says nothing.
  if (mode === "versions") expect(await storm("reversed", true)).toBe(checksum);
  await server.end();
}, 3_600_000);
