/** The example of an ads platform, with few clicks: its report is right, and the one that it is held against is not. */
import { clickStream } from "../../examples/ads/clicks.js";
import { describe as inWords, differing, runAds, total } from "../../examples/ads/run.js";
import { useDatabase } from "../support/databases.js";

const database = useDatabase();
const clicks = 5_000;

test("every row of the report is right, and the sums are those of the generator", async () => {
  const lines: string[] = [];
  const result = await runAds({
    pool: database.pool,
    clicks,
    say: (line) => lines.push(line),
    showEveryMs: 50,
  });
  expect(result.wrong).toEqual([]);
  expect(result.report.size).toBe(75);
  expect(total(result.report)).toEqual({ clicks, revenue: 1_229_345 });
  expect(result.counts.inserted).toBe(clicks);
  expect(Object.values(result.counts).reduce((sum, count) => sum + count, 0)).toBe(result.sent);
  // What is live is seen before it is over.
  expect(lines.length).toBeGreaterThan(2);
  expect(inWords(result).at(-1)).toMatch(
    /^All 75 rows of the report are right; of the other one \d+ are wrong\.$/,
  );
  const { rows } = await database.pool.query(
    "SELECT count(*)::int AS clicks, sum(price)::int AS revenue FROM ads_example.clicks",
  );
  expect(rows).toEqual([{ clicks, revenue: 1_229_345 }]);
});

test("5 to 10 % are retries; some come hours later, some old versions after their correction", () => {
  const stream = clickStream(clicks);
  const seen = new Map<string, { version: number; place: number }>();
  let [retries, late, stale, early, place] = [0, 0, 0, 0, 0];
  const isOrdered: boolean[] = [];
  let before = "";
  for (const { event_id, version, clicked_at } of stream.clicks()) {
    place += 1;
    isOrdered.push(clicked_at >= before);
    before = clicked_at;
    const first = seen.get(event_id);
    if (first === undefined) {
      seen.set(event_id, { version, place });
      if (version === 2) early += 1;
      continue;
    }
    if (version < first.version) stale += 1;
    else if (version === first.version) {
      retries += 1;
      if (place - first.place > clicks / 72) late += 1;
    }
    seen.set(event_id, { version: Math.max(version, first.version), place: first.place });
  }
  expect(seen.size).toBe(clicks);
  expect(retries / stream.sent).toBeGreaterThan(0.05);
  expect(retries / stream.sent).toBeLessThan(0.1);
  expect(late).toBeGreaterThan(50);
  expect(stale).toBeGreaterThan(20);
  expect(early).toBeGreaterThan(5);
  expect(isOrdered.filter((ordered) => !ordered).length).toBeGreaterThan(1_000);
  expect(total(stream.truth).clicks).toBe(clicks);
  expect(differing(stream.naive, stream.truth).length).toBeGreaterThan(70);
});
