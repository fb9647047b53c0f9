/** Results as text. Owns: which figures of a row are shown, and their medians. */
import type { Row } from "./measure.js";
import type { Suite } from "./suites.js";

export interface Results {
  readonly machine: Readonly<Record<string, string | number>>;
  readonly seconds: number;
  readonly rounds: number;
  readonly suites: (Suite & { readonly rows: readonly Row[] })[];
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)] ?? Number.NaN;
}

const titles = [
  "",
  "per second",
  "ratio",
  "p50 ms",
  "p99 ms",
  "app CPU µs",
  "Postgres µs",
  "Redis µs",
] as const;

function cells({ label, rounds }: Row): string[] {
  const of = (read: (round: Row["rounds"][number]) => number): number => median(rounds.map(read));
  const ratios = rounds.map(({ ratio }) => ratio);
  const spread = `${Math.min(...ratios).toFixed(2)} to ${Math.max(...ratios).toFixed(2)}`;
  return [
    label,
    Math.round(of(({ load }) => load.perSecond)).toLocaleString("en"),
    `${median(ratios).toFixed(2)} (${spread})`,
    of(({ load }) => load.latency.p50).toFixed(2),
    of(({ load }) => load.latency.p99).toFixed(2),
    of(({ cpu }) => cpu.app).toFixed(0),
    of(({ cpu }) => cpu.postgres).toFixed(0),
    of(({ cpu }) => cpu.redis).toFixed(0),
  ];
}

/** A suite as a Markdown table. */
export function writeReport(suite: { readonly rows: readonly Row[] }): string {
  const line = (texts: readonly string[]): string => `| ${texts.join(" | ")} |\n`;
  return [titles, titles.map((_, index) => (index === 0 ? "---" : "---:"))]
    .map((row) => line(row))
    .concat(suite.rows.map((row) => line(cells(row))))
    .join("");
}
