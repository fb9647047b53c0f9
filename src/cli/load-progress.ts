/** Shows how far a load has come: a bar on a terminal, else a line every few seconds. Writes to standard error only. */
import { SingleBar } from "cli-progress";
import { duration } from "./words.js";

export interface Progress {
  /** `readBytes` of the file as it is stored. */
  show(records: number, readBytes: number): void;
  stop(): void;
}

const lineEveryMs = 5_000;

export function showProgress(totalBytes: number | undefined): Progress {
  const startedMs = performance.now();
  const rateOf = (records: number): string =>
    rate(records, performance.now() - startedMs).toLocaleString("en-US");
  return process.stderr.isTTY && totalBytes !== undefined && totalBytes > 0
    ? showBar(totalBytes, rateOf)
    : showLines(totalBytes, rateOf);
}

/** Records a second. */
export function rate(records: number, elapsedMs: number): number {
  return Math.round(records / Math.max(0.001, elapsedMs / 1_000));
}

function showBar(totalBytes: number, rateOf: (records: number) => string): Progress {
  const bar = new SingleBar({
    format: "{bar} {percentage}%  {records} records  {rate}/s  {left} left",
    barCompleteChar: "█",
    barIncompleteChar: "░",
    hideCursor: true,
    // Signals are the load's.
    gracefulExit: false,
    formatValue: (value) => String(value),
  });
  const startedMs = performance.now();
  bar.start(totalBytes, 0, { records: "0", rate: "0", left: "…" });
  return {
    show: (records, readBytes) => {
      const elapsedMs = performance.now() - startedMs;
      const left =
        readBytes === 0 ? "…" : duration((elapsedMs * (totalBytes - readBytes)) / readBytes);
      bar.update(Math.min(readBytes, totalBytes), {
        records: records.toLocaleString("en-US"),
        rate: rateOf(records),
        left,
      });
    },
    stop: () => bar.stop(),
  };
}

function showLines(totalBytes: number | undefined, rateOf: (records: number) => string): Progress {
  let shownMs = performance.now();
  return {
    show: (records, readBytes) => {
      const nowMs = performance.now();
      if (nowMs - shownMs < lineEveryMs) return;
      shownMs = nowMs;
      const part =
        totalBytes === undefined || totalBytes === 0
          ? ""
          : `${Math.floor((100 * readBytes) / totalBytes)} %, `;
      process.stderr.write(
        `${part}${records.toLocaleString("en-US")} records, ${rateOf(records)}/s\n`,
      );
    },
    stop: () => undefined,
  };
}
