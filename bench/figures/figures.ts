/**
 * `npm run bench:figures`: writes what bench/results/ holds into docs/performance.md, between its marks, and the plots into
 * docs/images/. Owns: which figures are shown. A test holds the page against the results.
 */
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { median, writeReport, type Results } from "../http/report.js";
import { barPlot, markPlot } from "./svg.js";

/** Files of docs/ by name, with their whole text. */
export type Figures = ReadonlyMap<string, string>;

const isOurs = (label: string): boolean => label.startsWith("oncekey");

function ratioPlot({ title, rows }: Results["suites"][number]): string {
  const bars = rows.map(({ label, rounds }) => {
    const ratios = rounds.map(({ ratio }) => ratio);
    const value = median(ratios);
    return {
      label,
      value,
      low: Math.min(...ratios),
      high: Math.max(...ratios),
      isOurs: isOurs(label),
    };
  });
  return barPlot(`${title}: to the first row`, bars, 1);
}

function latencyPlot({ title, rows }: Results["suites"][number]): string {
  const marks = rows.map(({ label, rounds }) => {
    const of = (name: "p50" | "p99" | "p999"): number =>
      median(rounds.map(({ load }) => load.latency[name]));
    const at = (["p50", "p99", "p999"] as const).map((name) => ({ name, value: of(name) }));
    return { label, isOurs: isOurs(label), at };
  });
  return markPlot(`${title}: p50, p99, p99.9`, marks, "ms");
}

function machineOf({ machine, suites }: Results): string {
  // A suite that was measured again may have had others.
  const lengths = suites.map(({ rows }) => {
    const rounds = rows[0]?.rounds ?? [];
    return `${rounds.length} rounds of ${Math.round(rounds[0]?.load.seconds ?? 0)} s`;
  });
  const { node, postgres, cpus, cpu, memoryGb, platform } = machine;
  return (
    `Node ${node}, PostgreSQL ${postgres} with fsync, ${platform}, ${cpus} cores (${cpu}), ${memoryGb} GB; ` +
    `medians of ${[...new Set(lengths)].join(" or ")}, in brackets the smallest and largest ratio of a round.`
  );
}

function httpFigures(results: Results, images: Map<string, string>): string {
  const parts = [`${machineOf(results)}\n`];
  for (const suite of results.suites) {
    const image = `images/http-${suite.name}.svg`;
    images.set(image, suite.rate === undefined ? ratioPlot(suite) : latencyPlot(suite));
    parts.push(`### ${suite.title}\n`, writeReport(suite), `![${suite.title}](${image})\n`);
  }
  return parts.join("\n");
}

/** Puts a text between `<!-- figures: name -->` and `<!-- end -->`. */
function between(page: string, name: string, text: string): string {
  const begin = `<!-- figures: ${name} -->\n`;
  const from = page.indexOf(begin);
  const to = page.indexOf("<!-- end -->", from);
  if (from < 0 || to < 0) throw new Error(`the page has no place for the figures ${name}`);
  return `${page.slice(0, from + begin.length)}\n${text}\n${page.slice(to)}`;
}

/** The page and the plots as the results say they should be. */
export function figures(page: string, http: Results): Figures {
  const files = new Map<string, string>();
  files.set("performance.md", between(page, "http", httpFigures(http, files)));
  return files;
}

export function readFigures(): Figures {
  const http = JSON.parse(readFileSync("bench/results/http.json", "utf8")) as Results;
  return figures(readFileSync("docs/performance.md", "utf8"), http);
}

/** Writes the files. */
export function writeFigures(): void {
  mkdirSync("docs/images", { recursive: true });
  for (const [name, text] of readFigures()) writeFileSync(`docs/${name}`, text);
}
