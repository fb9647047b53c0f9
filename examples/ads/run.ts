/** Runs clicks through the pipeline, shows the report while it grows, and holds it against what is true. */
import type pg from "pg";
import type { BatchCounts } from "../../src/pipeline.js";
import { clickStream } from "./clicks.js";
import type { Figures, Report } from "./clicks.js";
import { openPipeline } from "./pipeline.js";

export interface AdsOptions {
  readonly pool: pg.Pool;
  /** Different clicks; retries and corrections come on top. */
  readonly clicks: number;
  readonly say: (line: string) => void;
  readonly showEveryMs?: number;
}

export interface AdsResult {
  readonly sent: number;
  readonly counts: BatchCounts;
  readonly report: Report;
  readonly truth: Report;
  readonly naive: Report;
  /** Merchant and day of every row that differs from the truth. */
  readonly wrong: readonly string[];
}

export async function runAds({
  pool,
  clicks,
  say,
  showEveryMs = 1_000,
}: AdsOptions): Promise<AdsResult> {
  const pipeline = await openPipeline(pool);
  const stream = clickStream(clicks);
  const startedMs = performance.now();
  const show = async (): Promise<void> => {
    const { clicks: counted, revenue } = total(await pipeline.report());
    say(
      `${seconds(startedMs)}  sent ${number(stream.sent)}  report: ${number(counted)} clicks, ${money(revenue)}`,
    );
  };
  const timer = setInterval(() => void show().catch(() => undefined), showEveryMs);
  let counts: BatchCounts;
  try {
    counts = await pipeline.store(stream.clicks());
    const rate = stream.sent / ((performance.now() - startedMs) / 1_000);
    say(`${seconds(startedMs)}  all is stored: ${number(Math.round(rate))} events a second`);
    await pipeline.finish();
  } finally {
    clearInterval(timer);
  }
  await show();
  const report = await pipeline.report();
  const { sent, truth, naive } = stream;
  return { sent, counts, report, truth, naive, wrong: differing(report, truth) };
}

/** Rows that one report has and the other has not so. */
export function differing(a: Report, b: Report): string[] {
  const keys = [...new Set([...a.keys(), ...b.keys()])].sort();
  return keys.filter((key) => {
    const [mine, other] = [a.get(key), b.get(key)];
    return mine?.clicks !== other?.clicks || mine?.revenue !== other?.revenue;
  });
}

export function total(report: Report): Figures {
  let [clicks, revenue] = [0, 0];
  for (const row of report.values()) {
    clicks += row.clicks;
    revenue += row.revenue;
  }
  return { clicks, revenue };
}

/** What it came to, for people. */
export function describe({ sent, counts, report, truth, naive, wrong }: AdsResult): string[] {
  const line = (name: string, { clicks, revenue }: Figures): string =>
    `${name.padEnd(34)}${number(clicks).padStart(14)}${money(revenue).padStart(18)}`;
  const shown = [...truth.keys()].sort().slice(0, 3);
  const none = { clicks: 0, revenue: 0 };
  const rows = shown.flatMap((key) => [
    line(`  ${key}`, report.get(key) ?? none),
    line("    counting what arrives", naive.get(key) ?? none),
  ]);
  const again = sent - counts.inserted;
  return [
    `${number(sent)} events were sent for ${number(counts.inserted)} clicks: ${number(again)} were retries and corrections (${((100 * again) / sent).toFixed(1)} %).`,
    `The sink: ${number(counts.inserted)} inserted, ${number(counts.updated)} updated, ${number(counts.unchanged)} unchanged, ${number(counts.duplicatesInBatch)} duplicates in their batches.`,
    "",
    `${"".padEnd(34)}${"clicks".padStart(14)}${"revenue".padStart(18)}`,
    line("report", total(report)),
    line("true", total(truth)),
    line("counting and adding what arrives", total(naive)),
    ...rows,
    "",
    wrong.length === 0
      ? `All ${truth.size} rows of the report are right; of the other one ${differing(naive, truth).length} are wrong.`
      : `WRONG: ${wrong.join(", ")}`,
  ];
}

const number = (value: number): string => value.toLocaleString("en-US");
/** Prices are in hundredths. */
const money = (value: number): string =>
  (value / 100).toLocaleString("en-US", { minimumFractionDigits: 2, maximumFractionDigits: 2 });
const seconds = (startedMs: number): string =>
  `${((performance.now() - startedMs) / 1_000).toFixed(1).padStart(6)} s`;
