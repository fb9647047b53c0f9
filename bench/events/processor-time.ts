/** CPU of Postgres and of this process: on a machine that others share it says more than the time on the wall. Linux only. */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";

export type ProcessorTime = { readonly client: number; readonly server: number };

/** Seconds so far, of this process and of the server with this data directory, backends that have ended among them. */
export function processorTime(dataDirectory: string): ProcessorTime {
  const { user, system } = process.cpuUsage();
  const main = Number(readFileSync(join(dataDirectory, "postmaster.pid"), "utf8").split("\n")[0]);
  const stats = readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .map((name) => fieldsOf(name))
    .filter((stat) => stat.pid === main || stat.parent === main);
  const ticks = stats.reduce(
    (sum, { pid, own, reaped }) => sum + own + (pid === main ? reaped : 0),
    0,
  );
  return { client: (user + system) / 1e6, server: ticks / 100 };
}

/** Fields 4 and 14 to 17 of proc(5), behind the name; ticks are hundredths of a second. */
function fieldsOf(name: string): { pid: number; parent: number; own: number; reaped: number } {
  try {
    const stat = readFileSync(`/proc/${name}/stat`, "utf8");
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    const at = (index: number): number => Number(fields[index]);
    return { pid: Number(name), parent: at(1), own: at(11) + at(12), reaped: at(13) + at(14) };
  } catch {
    // It has ended since.
    return { pid: Number(name), parent: 0, own: 0, reaped: 0 };
  }
}
