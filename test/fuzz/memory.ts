/** Whether the server's memory is level: what it holds may depend on what it does, and not on how long it has done it. */

export type MemorySample = {
  /** Requests sent before. */
  readonly after: number;
  readonly residentMb: number;
  readonly heapMb: number;
};

/** Below this many requests, caches still fill up to their limits, and there is nothing to tell apart from a leak. */
const leastRequests = 20_000;
const mostGrowth = 1.3;
/** Between two collections the heap holds some garbage, and the allocator keeps some pages. */
const slackMb = 48;

/** As the server itself tells it at `/metrics`. */
export async function sampleMemory(url: string, after: number): Promise<MemorySample> {
  const response = await fetch(`${url}/metrics`, { signal: AbortSignal.timeout(20_000) });
  const text = await response.text();
  const megabytes = (name: string): number => {
    const value = new RegExp(String.raw`^${name} (\S+)$`, "m").exec(text)?.[1];
    if (value === undefined) throw new Error(`/metrics has no ${name}`);
    return Math.round(Number(value) / 2 ** 20);
  };
  return {
    after,
    residentMb: megabytes("process_resident_memory_bytes"),
    heapMb: megabytes("nodejs_heap_size_used_bytes"),
  };
}

/** Holds the last quarter of a round against its second. */
export function judgeMemory(samples: readonly MemorySample[], requests: number): string[] {
  if (requests < leastRequests) return [];
  const quarter = (from: number): readonly MemorySample[] =>
    samples.filter(({ after }) => after >= requests * from && after < requests * (from + 0.25));
  return (["residentMb", "heapMb"] as const).flatMap((name) => {
    const early = median(quarter(0.25).map((sample) => sample[name]));
    const late = median(quarter(0.75).map((sample) => sample[name]));
    const most = early * mostGrowth + slackMb;
    return late <= most
      ? []
      : [`${name} grew from ${early} to ${late}, more than ${Math.round(most)}`];
  });
}

function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted[Math.floor(sorted.length / 2)];
  if (middle === undefined) throw new Error("memory was not sampled");
  return middle;
}
