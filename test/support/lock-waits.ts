/** Waiting until sessions of a database wait for a lock, so that a test knows who is stuck behind whom. */
import type { Pool } from "pg";

import { waitFor } from "./wait-for.js";

/** Resolves when exactly so many wait. `query`: a pattern of LIKE that their statements match; default any. */
export async function waitForLockWaits(pool: Pool, count = 1, query = "%"): Promise<void> {
  const areWaiting = async (): Promise<boolean> => {
    const { rowCount } = await pool.query(
      `SELECT FROM pg_stat_activity
       WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE $1`,
      [query],
    );
    return rowCount === count;
  };
  await waitFor(areWaiting, { what: `${count} sessions to wait for a lock` });
}
