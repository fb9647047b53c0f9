/** A short storm of events; the long one is `npm run chaos:events`. */
import { eventStorm } from "../chaos/event-storm.js";
import { startPostgres } from "../support/postgres-server.js";

test("three writers, killed and started again, over restarts, in two orders and twice: each event once", async () => {
  const server = await startPostgres();
  const plan = {
    server,
    mode: "versions",
    events: 25_000,
    chunkEvents: 1_000,
    batchRows: 300,
    killEveryMs: 400,
    recomputeEveryMs: 500,
    restartAt: [0.3, 0.6],
  } as const;
  const stormy = await eventStorm({ ...plan, table: "stormy" });
  expect(stormy.found).toEqual(stormy.expected);
  expect(stormy.kills).toBeGreaterThan(0);
  expect(stormy.restarts).toBe(2);
  expect(stormy.aggregate).toMatchObject({ rows: 1_000, wrong: 0 });
  expect(stormy.aggregate.passes).toBeGreaterThan(0);
  const calm = { ...plan, killEveryMs: 60_000, restartAt: [] };
  const reversed = await eventStorm({ ...calm, table: "reversed", isReversed: true });
  const again = await eventStorm({ ...calm, table: "stormy" });
  expect([reversed.aggregate.wrong, again.aggregate.wrong]).toEqual([0, 0]);
  expect([reversed.checksum, again.checksum]).toEqual([stormy.checksum, stormy.checksum]);
  await server.end();
}, 300_000);
