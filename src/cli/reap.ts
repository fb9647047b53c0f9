/** `oncekey reap`: removes what is over until nothing is due, by bounded batches. */
import { withPlace } from "./connect.js";
import type { PlaceOptions } from "./connect.js";
import { print, printJson } from "./words.js";

/** `limit` bounds one batch, which is one short transaction, and not the whole. */
export async function runReap(options: PlaceOptions, limit: number): Promise<void> {
  const total = await withPlace(options, async ({ store }) => {
    let [forgotten, deleted] = [0, 0];
    for (;;) {
      const batch = await store.reap(limit);
      forgotten += batch.forgotten;
      deleted += batch.deleted;
      if (batch.forgotten + batch.deleted < limit) return { forgotten, deleted };
    }
  });
  if (options.json) printJson(total);
  else print(`Removed ${total.forgotten} responses and ${total.deleted} keys.`);
}
