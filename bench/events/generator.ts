/** Events as an ads platform has them: made from a seed, so that every run and every contender gets the same ones. */
import { seededRandom } from "../../test/support/tcp-proxy.js";

export type KeyKind = "v4" | "v7";

export type Event = {
  readonly id: string;
  readonly merchant: string;
  readonly amount: number;
  readonly at: string;
  readonly data: { readonly campaign: number; readonly device: string };
};

/** Retries come back within this many events. */
const retryWindow = 50_000;
const devices = ["phone", "desktop", "tablet"];
const hex = (value: number, digits: number): string => value.toString(16).padStart(digits, "0");

/** `duplicates`: share of events that are sent again; `from`: number of the first event, so that turns differ. */
export function generate(
  count: number,
  keys: KeyKind,
  duplicates: number,
  seed: number,
  from: number,
): Event[] {
  const random = seededRandom(seed);
  const word = (): number => Math.floor(random() * 2 ** 32);
  const events: Event[] = [];
  for (let index = 0; index < count; index += 1) {
    if (index > 0 && random() < duplicates) {
      const back = 1 + Math.floor(random() * Math.min(index, retryWindow));
      events.push(events[index - back] as Event);
      continue;
    }
    const atMs = 1_770_000_000_000 + Math.floor((from + index) / 200);
    const first = keys === "v7" ? hex(atMs, 12) : hex(word(), 8) + hex(word() & 0xffff, 4);
    const [b, c] = [hex(word() & 0xfff, 3), hex(word(), 8)];
    const id = `${first.slice(0, 8)}-${first.slice(8)}-${keys === "v7" ? 7 : 4}${b}-a${c.slice(0, 3)}-${c.slice(3, 8)}${hex(word() & 0xfffffff, 7)}`;
    events.push({
      id,
      merchant: `m_${word() % 5_000}`,
      amount: word() % 100_000,
      at: new Date(atMs).toISOString(),
      data: { campaign: word() % 1_000, device: devices[word() % 3] as string },
    });
  }
  return events;
}

export const columns = ["id", "merchant", "amount", "at", "data"] as const;
export const createEvents = (table: string): string => `CREATE TABLE ${table} (
  id uuid PRIMARY KEY, merchant text NOT NULL, amount bigint NOT NULL, at timestamptz NOT NULL, data jsonb)`;
