/** `oncekey status`. */
import { status } from "../ops.js";
import type { StoreStatus } from "../ops.js";
import { withPlace } from "./connect.js";
import type { PlaceOptions } from "./connect.js";
import { columns, duration, plain, print, printJson } from "./words.js";

export async function runStatus(options: PlaceOptions, list: number): Promise<void> {
  const found = await withPlace(options, (place) => status(place, { list }));
  if (options.json) printJson(found);
  else print(inWords(found));
}

function inWords(found: StoreStatus): string {
  const { outbox } = found;
  const since = (ms: number | undefined): string =>
    ms === undefined ? "" : `, the oldest for ${duration(ms)}`;
  const counts = found.keys.map(
    ({ state, guarantee, keys }) => [`${state} (${guarantee})`, keys] as const,
  );
  const keys = counts.length === 0 ? "There are no keys." : columns(counts);
  const states = columns([
    ["abandoned", `${found.abandoned}${since(found.oldestAbandonedMs)}`],
    ["outcome unknown", found.unknown],
    ["set aside", found.setAside],
    ["due for the completer", `${found.due}${since(found.oldestDueMs)}`],
    ["due for reaping", found.reapable],
    ["outbox, pending", `${outbox.pending}${since(outbox.oldestMs)}`],
    ["outbox, retrying", outbox.retrying],
    ["outbox, set aside", outbox.setAside],
  ]);
  const waiting = found.waiting.map(
    (key) =>
      `  ${key.standing === "unknown" ? "unknown  " : "set aside"}  ${key.createdAt.toISOString()}  ` +
      `${plain(key.scope)}  ${plain(key.key)}  ${key.method} ${plain(key.path)}`,
  );
  const list =
    waiting.length === 0
      ? ""
      : `\n\nThese wait for you (oncekey inspect KEY --scope SCOPE):\n${waiting.join("\n")}`;
  return `${keys}\n\n${states}${list}`;
}
