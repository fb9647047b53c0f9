/**
 * Makes events as lines, the same for the same seed: UUIDs of version 4 or 7, a tenth of them again, a thousand merchants, a month.
 * Written by hand: a generator that is slower than what it feeds would be what is measured.
 */

export interface EventLines {
  readonly count: number;
  readonly version: 4 | 7;
  /** Of a thousand events, how many are sent again later. */
  readonly perMilleAgain: number;
  readonly seed: number;
}

/** Pieces of some hundred kilobytes. */
export function* eventLines({
  count,
  version,
  perMilleAgain,
  seed,
}: EventLines): Generator<Buffer> {
  let state = seed >>> 0;
  const random = (): number => {
    // xorshift32: fast, and good enough to spread keys.
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return state >>> 0;
  };
  const hex = (): string => random().toString(16).padStart(8, "0");
  const startMs = Date.UTC(2026, 0, 1);
  const again: string[] = [];
  let lines: string[] = [];
  for (let index = 0; index < count; index += 1) {
    const kept = again.length > 0 && random() % 1_000 < perMilleAgain;
    if (kept) lines.push(again[random() % again.length] as string);
    else {
      const [a, b, c, d] = [hex(), hex(), hex(), hex()];
      const atMs = startMs + Math.floor((index / count) * 30 * 86_400_000);
      const time = atMs.toString(16).padStart(12, "0");
      const id =
        version === 7
          ? `${time.slice(0, 8)}-${time.slice(8)}-7${b.slice(5)}-a${c.slice(5)}-${c.slice(0, 4)}${d}`
          : `${a}-${b.slice(0, 4)}-4${b.slice(5)}-a${c.slice(5)}-${c.slice(0, 4)}${d}`;
      const line = `{"event_id":"${id}","merchant_id":"m_${random() % 1_000}","amount":${random() % 10_000},"currency":"eur","occurred_at":"${new Date(atMs).toISOString()}"}\n`;
      lines.push(line);
      // A sample of the last ones, so that some come again at once and some much later.
      if (random() % 8 === 0)
        again[again.length < 10_000 ? again.length : random() % 10_000] = line;
    }
    if (lines.length === 2_000) {
      yield Buffer.from(lines.join(""));
      lines = [];
    }
  }
  if (lines.length > 0) yield Buffer.from(lines.join(""));
}
