/**
 * Seen: for minutes after the promotion of a replica, pg_control_checkpoint() still shows the old timeline, since the first
 * checkpoint of the new primary is spread over time. Connections made meanwhile read the epoch of the history that had just
 * ended, and cached responses of lost commits went on being replayed.
 */
import { chmodSync, writeFileSync } from "node:fs";
import { join } from "node:path";

import pg from "pg";

import { migrate, postgresStore } from "../../src/stores/postgres.js";
import { startPostgres } from "../support/postgres-server.js";
import { waitFor } from "../support/wait-for.js";

test("the epoch is another one as soon as a replica is promoted", async () => {
  const server = await startPostgres();
  const pool = new pg.Pool({ connectionString: server.url });
  pool.on("error", () => {});
  await migrate({ pool });
  const epochOf = async (): Promise<string | undefined> => {
    const store = postgresStore({ pool });
    await store.find({ scope: "a", key: "b" });
    const epoch = store.epoch();
    await store.close();
    return epoch;
  };
  const before = await epochOf();
  // A replica is a copy of the data that starts with this file in its folder.
  const signal = join(server.dataDir, "standby.signal");
  writeFileSync(signal, "");
  chmodSync(signal, 0o666);
  await server.restart();
  await waitFor(() => pool.query("SELECT pg_promote()"));
  const { rows } = await pool.query<{ timeline: number }>(
    "SELECT ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int AS timeline",
  );
  expect(rows).toEqual([{ timeline: 2 }]);
  expect(await epochOf()).toBe(before?.replace(/\.1$/, ".2"));
  await pool.end();
  await server.end();
});
