/**
 * Clicks as an ads platform gets them, made from their numbers alone: every run gets the same ones. Clients retry, so that some come
 * again at once, some hours later, and none in its order; and some are corrected, which is a newer version of the same click.
 */
import { stableKey } from "../../src/pipeline.js";

export interface Click {
  /** Of what the click is, and not of when it was sent: a retry has the same. */
  readonly event_id: string;
  readonly merchant_id: string;
  readonly price: number;
  readonly clicked_at: string;
  readonly version: number;
}

/** What a merchant's day comes to. */
export interface Figures {
  readonly clicks: number;
  readonly revenue: number;
}

/** By merchant and day: `m_07 2026-03-02`. */
export type Report = Map<string, Figures>;

const merchants = 25;
const firstMs = Date.UTC(2026, 2, 1);
/** All clicks together are this long. */
const spanMs = 3 * 86_400_000;
/** Of a thousand clicks. */
const retriedSoon = 60;
const retriedLate = 20;
const corrected = 15;
/** A click is at most so many places away from where its time would have it. */
const disorder = 64;

/** splitmix32: a number that depends on all bits of another one. */
function mix(value: number, salt: number): number {
  let mixed = (value + Math.imul(salt, 0x9e3779b9)) | 0;
  mixed = Math.imul(mixed ^ (mixed >>> 16), 0x21f0aaad);
  mixed = Math.imul(mixed ^ (mixed >>> 15), 0x735a2d97);
  return (mixed ^ (mixed >>> 15)) >>> 0;
}

function clickAt(number: number, count: number): Click {
  const clickedAt = new Date(firstMs + Math.floor((number / count) * spanMs)).toISOString();
  const user = `u_${mix(number, 1) % 50_000}`;
  const merchant = mix(number, 2) % merchants;
  return {
    // Two clicks of a user on one ad within a millisecond would be one: the number of the ad view tells them apart.
    event_id: stableKey({ user, event: "click", at: clickedAt, view: number }),
    merchant_id: `m_${String(merchant).padStart(2, "0")}`,
    price: 1 + (mix(number, 3) % 500),
    clicked_at: clickedAt,
    version: 1,
  };
}

/** A click with what becomes of it: each sending, and the place in the stream at which it arrives. */
function sendings(
  number: number,
  count: number,
): { readonly place: number; readonly click: Click }[] {
  const click = clickAt(number, count);
  const drawn = mix(number, 4) % 1_000;
  const sent = number + (mix(number, 5) % disorder);
  const all = [{ place: sent, click }];
  const hour = Math.ceil(count / (spanMs / 3_600_000));
  if (drawn < retriedSoon) all.push({ place: sent + 1 + (mix(number, 6) % 200), click });
  else if (drawn < retriedSoon + retriedLate)
    all.push({ place: sent + hour * (1 + (mix(number, 6) % 8)), click });
  if (mix(number, 7) % 1_000 < corrected) {
    // A click that was found to be a robot's costs nothing. The correction may overtake the click, and be retried as well.
    const correction = { ...click, price: 0, version: 2 };
    const place = number + (mix(number, 8) % (hour * 2));
    all.push({ place, click: correction });
    // An old version that comes late must not bring the price back.
    all.push({ place: place + hour, click });
  }
  return all;
}

export interface Stream {
  /** In the order of their arrival. */
  clicks(): Generator<Click>;
  /** What is true: each click once, by its newest version. Complete when all were sent. */
  readonly truth: Report;
  /** What a pipeline shows that counts what arrives, and adds it up. */
  readonly naive: Report;
  /** How many were sent so far, retries and corrections among them. */
  readonly sent: number;
}

/** `count` different clicks. Holds those that are under way, and no others. */
export function clickStream(count: number): Stream {
  const truth: Report = new Map();
  const naive: Report = new Map();
  const underWay = new Map<number, Click[]>();
  const stream = { truth, naive, sent: 0, clicks };
  function* arrivals(place: number): Generator<Click> {
    for (const click of underWay.get(place) ?? []) {
      stream.sent += 1;
      add(naive, click);
      yield click;
    }
    underWay.delete(place);
  }
  function* clicks(): Generator<Click> {
    for (let number = 0; number < count; number += 1) {
      const all = sendings(number, count);
      for (const { place, click } of all) {
        const others = underWay.get(place);
        if (others === undefined) underWay.set(place, [click]);
        else others.push(click);
      }
      add(truth, newest(all.map(({ click }) => click)));
      yield* arrivals(number);
    }
    for (const place of [...underWay.keys()].sort((a, b) => a - b)) yield* arrivals(place);
  }
  return stream;
}

function newest(clicks: readonly Click[]): Click {
  return clicks.reduce((a, b) => (b.version > a.version ? b : a));
}

function add(report: Report, { merchant_id, clicked_at, price }: Click): void {
  const key = `${merchant_id} ${clicked_at.slice(0, 10)}`;
  const before = report.get(key) ?? { clicks: 0, revenue: 0 };
  report.set(key, { clicks: before.clicks + 1, revenue: before.revenue + price });
}
