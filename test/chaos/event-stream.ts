/**
 * Events of a given size by their number alone, so that every process can make its own part and the reckoning can make them all
 * again. Between one and two in twenty are sent again: within seconds, or much later.
 */

/** `plain`: copies are equal, and ignored. `versions`: each copy is newer than the event, and the newest stays. */
export type Mode = "plain" | "versions";

export type StreamedEvent = {
  readonly id: string;
  /** Number of the first of its copies. */
  readonly n: number;
  /** Number of this copy. */
  readonly version: number;
  readonly amount: number;
  readonly merchant: string;
  /** With versions a newer copy can be of another day, and leaves the aggregate of the old one. */
  readonly at: string;
};

const near = 50_000;
const merchants = 200;
const firstDay = 1;
const days = 5;

/** splitmix32: a number that depends on all bits of another one. */
function mix(value: number, salt: number): number {
  let mixed = (value + Math.imul(salt, 0x9e3779b9)) | 0;
  mixed = Math.imul(mixed ^ (mixed >>> 16), 0x21f0aaad);
  mixed = Math.imul(mixed ^ (mixed >>> 15), 0x735a2d97);
  return (mixed ^ (mixed >>> 15)) >>> 0;
}

/** Which event the one of this number is: itself, or an earlier one that is sent again. */
export function originalOf(number: number): number {
  let at = number;
  for (;;) {
    const drawn = mix(at, 1);
    if (at === 0 || drawn % 1_000 >= 75) return at;
    const reach = drawn % 7 === 0 ? at : Math.min(at, near);
    at -= 1 + (mix(at, 2) % reach);
  }
}

export function amountOf(version: number): number {
  return mix(version, 3) % 100_000;
}

export function eventAt(number: number, mode: Mode): StreamedEvent {
  const n = originalOf(number);
  const version = mode === "versions" ? number : n;
  const hex = (value: number): string => value.toString(16).padStart(8, "0");
  const [a, b, c] = [hex(mix(n, 4)), hex(mix(n, 5)), hex(mix(n, 6))];
  return {
    id: `${hex(n)}-${a.slice(0, 4)}-4${a.slice(5)}-a${b.slice(1, 4)}-${b.slice(4)}${c}`,
    n,
    version,
    amount: amountOf(version),
    merchant: `m_${mix(n, 7) % merchants}`,
    at: `2026-01-0${firstDay + (mix(version, 8) % days)}T12:00:00.000Z`,
  };
}

export type Sums = { readonly rows: number; readonly amounts: number; readonly weighted: number };

/** What a table that holds each event once adds up to. */
export function expectedSums(events: number, mode: Mode): Sums {
  const winner = new Int32Array(events).fill(-1);
  for (let number = 0; number < events; number += 1) {
    const n = originalOf(number);
    winner[n] = mode === "versions" ? number : n;
  }
  let rows = 0;
  let amounts = 0;
  let weighted = 0;
  for (const [n, version] of winner.entries()) {
    if (version < 0) continue;
    rows += 1;
    const amount = amountOf(version);
    amounts += amount;
    weighted += amount * (n % 1_009);
  }
  return { rows, amounts, weighted };
}
