/** Results as Markdown tables. */
import type { GrowthRow, LayoutRow, Turn } from "./suites.js";
import { median } from "./suites.js";

const line = (cells: readonly (string | number)[]): string => `| ${cells.join(" | ")} |\n`;
const count = (value: number): string => Math.round(value).toLocaleString("en");

function table(titles: readonly string[], rows: readonly (readonly (string | number)[])[]): string {
  return [line(titles), line(titles.map(() => "---")), ...rows.map(line)].join("");
}

/** Medians of one figure of several series of turns. */
function all(series: readonly (readonly Turn[])[], read: (turn: Turn) => number): string {
  return series.map((turns) => count(median(turns.map(read)))).join(", ");
}

export function writeGrowth(rows: readonly GrowthRow[]): string {
  return table(
    [
      "keys",
      "kind",
      "body",
      "empty/s",
      "full/s",
      "ratio",
      "ratio of the second half",
      "WAL bytes empty, full",
      "server µs empty, full",
      "claim p99 ms empty, full",
      "replay/s",
      "replay p99 ms",
      "bytes a key",
    ],
    rows.map((row) => [
      count(row.rows),
      row.keys,
      row.bodyBytes,
      count(median(row.empty.map(({ perSecond }) => perSecond))),
      count(median(row.full.map(({ perSecond }) => perSecond))),
      row.ratio.toFixed(2),
      row.settledRatio.toFixed(2),
      all([row.empty, row.full], ({ walBytes }) => walBytes),
      all([row.empty, row.full], ({ serverMicroseconds }) => serverMicroseconds),
      all([row.empty, row.full], ({ claim }) => claim.p99),
      count(row.replay.perSecond),
      row.replay.find.p99.toFixed(1),
      `${row.weight.heap} + ${row.weight.toast} + ${row.weight.primaryKey} + ${row.weight.otherIndexes}`,
    ]),
  );
}

export function writeLayouts(rows: readonly LayoutRow[]): string {
  return table(
    ["layout", "per second", "ratio", "HOT", "claim p99 ms", "heap", "primary key", "other"],
    rows.map((row) => [
      row.layout,
      count(median(row.runs.map(({ perSecond }) => perSecond))),
      row.ratio.toFixed(2),
      row.hotShare.toFixed(2),
      median(row.runs.map(({ claim }) => claim.p99)).toFixed(1),
      row.weight.heap,
      row.weight.primaryKey,
      row.weight.otherIndexes,
    ]),
  );
}
