/**
 * The reaper: removes what is over by bounded batches, so that no claim waits for it. No answer depends on it.
 */
import type { IdempotencyEvent } from "../core/events.js";
import type { Store } from "../core/ports.js";

/** Rows in one batch: a few milliseconds of work, and locks that nobody else asks for. */
const maxBatch = 500;

/** Removes one batch; true when there may be more. */
export async function reapOnce(
  store: Pick<Store, "reap">,
  onEvent: (event: IdempotencyEvent) => void,
): Promise<boolean> {
  const { forgotten, deleted } = await store.reap(maxBatch, "elected");
  if (forgotten + deleted > 0) onEvent({ type: "reaped", forgotten, deleted });
  return forgotten + deleted >= maxBatch;
}
