/** Holds the validation of events, which is written by hand for its speed, against the schema that openapi.yaml gives. */
import fc from "fast-check";

import { readEvent, type EventRow } from "../../src/server/event-record.js";
import { weakEventId } from "../../src/pipeline.js";
import type { RecordFault } from "../../src/pipeline.js";
import { fits } from "./openapi-document.js";

function read(value: unknown): { row: EventRow | undefined; faults: RecordFault[] } {
  const faults: RecordFault[] = [];
  const upload = { refuse: (fault: RecordFault) => faults.push(fault) };
  return { row: readEvent(value, 7, { account: "acct_a", livemode: false, upload }), faults };
}

const good = {
  event_id: "order-1042-line-1",
  merchant_id: "m_17",
  amount: 1250,
  currency: "eur",
  occurred_at: "2026-01-31T12:00:00Z",
};

/** Most values are good, so that half of the events are: a fault is looked for behind fields that have none. */
const mostly = <T>(right: fc.Arbitrary<T>, other: fc.Arbitrary<unknown>): fc.Arbitrary<unknown> =>
  fc.oneof({ weight: 12, arbitrary: right }, { weight: 1, arbitrary: other });

const texts = (most: number): fc.Arbitrary<string> =>
  fc.oneof(
    fc.string({ unit: "binary", minLength: 1, maxLength: 80 }),
    fc.string({ unit: "grapheme", minLength: 0, maxLength: 5 }),
    fc.constantFrom(
      "😀".repeat(most),
      "😀".repeat(most + 1),
      "é".repeat(most),
      "x".repeat(most + 1),
    ),
    fc.constantFrom("", "a\0b", "\ud800", "a\udc00b", "\ud83d\ude00", "__proto__"),
  );

const two = (most: number): fc.Arbitrary<string> =>
  fc.integer({ min: 0, max: most }).map((value) => String(value).padStart(2, "0"));
const instants = fc
  .tuple(
    fc.constantFrom("2026", "2024", "2000", "1900", "0001", "0000", "9999"),
    two(13),
    two(32),
    fc.constantFrom("T", "t", " "),
    two(25),
    two(61),
    two(61),
    fc.constantFrom("", ".1", ".123456", ".1234567", "."),
    fc.constantFrom("Z", "z", "", "+00:00", "-15:59", "+16:00", "+01:60", "+0100", "+01"),
  )
  .map(
    ([year, month, day, t, hour, minute, second, fraction, zone]) =>
      `${year}-${month}-${day}${t}${hour}:${minute}:${second}${fraction}${zone}`,
  );
const goodInstants = fc
  .date({
    min: new Date("0001-01-02T00:00:00Z"),
    max: new Date("9999-12-30T00:00:00Z"),
    noInvalidDate: true,
  })
  .map((date) => date.toISOString());

const anything = fc.oneof(fc.jsonValue(), fc.constantFrom(null, true, {}, [], "", 0));
const event = fc.record(
  {
    event_id: mostly(fc.uuid(), fc.oneof(texts(255), anything, fc.constantFrom(17, "17", 1.5))),
    merchant_id: mostly(fc.constant("m_1"), fc.oneof(texts(64), anything)),
    amount: mostly(
      fc.integer({ min: -(10 ** 12), max: 10 ** 12 }),
      fc.oneof(
        fc.double({ noNaN: true, noDefaultInfinity: true }),
        fc.constantFrom(1e12 + 1, -1e12, -1e12 - 1, -0, 0.5),
        anything,
      ),
    ),
    currency: mostly(
      fc.constantFrom("eur", "USD", "Gbp"),
      fc.oneof(fc.constantFrom("eu", "euro", "e1r", "eur\n", "ÄÖÜ"), anything),
    ),
    occurred_at: mostly(goodInstants, fc.oneof(instants, instants, instants, anything)),
    version: mostly(
      fc.nat(),
      fc.oneof(fc.constantFrom(-1, 2 ** 53 - 1, 2 ** 53, 0.5, "1", null), anything),
    ),
  },
  { requiredKeys: ["event_id", "merchant_id", "amount", "currency", "occurred_at"] },
);
const mutilated = fc
  .tuple(
    event,
    fc.constantFrom(...Object.keys(good)),
    fc.constantFrom("", "extra", "__proto__", "constructor"),
    fc.nat(9),
  )
  .map(([value, field, extra, dice]) => {
    const text = JSON.stringify(value);
    // As a text, since only JSON.parse makes a field of this name.
    if (dice === 0) return JSON.parse(text.replace(/^\{/, `{"${extra}":1,`)) as unknown;
    const copy = JSON.parse(text) as Record<string, unknown>;
    if (dice === 1) delete copy[field];
    return copy;
  });

test("events are taken that the schema takes, and no others", () => {
  let taken = 0;
  let refused = 0;
  fc.assert(
    fc.property(fc.oneof({ weight: 50, arbitrary: mutilated }, anything), (value) => {
      const { row, faults } = read(value);
      const id = (value as { event_id?: unknown } | null)?.event_id;
      // What a schema cannot say: how an id looks that another run would change, and half of a pair of surrogates.
      const isWeak = typeof id === "string" && weakEventId(id) !== undefined;
      const isStorable = namesIn(value).every((text) => !/\p{Surrogate}/u.test(text));
      expect(row !== undefined).toBe(fits("Event", value) && !isWeak && isStorable);
      expect(faults).toHaveLength(row === undefined ? 1 : 0);
      if (row === undefined) refused += 1;
      else taken += 1;
    }),
    { numRuns: 3_000 },
  );
  // Both happen often.
  expect([taken > 400, refused > 400]).toEqual([true, true]);
});

function namesIn(value: unknown): string[] {
  const { event_id: id, merchant_id: merchant } = (value ?? {}) as Record<string, unknown>;
  return [id, merchant].filter((text) => typeof text === "string");
}

test.each([
  ["2024-02-29T00:00:00Z", true],
  ["2026-02-29T00:00:00Z", false],
  ["2000-02-29T00:00:00Z", true],
  ["1900-02-29T00:00:00Z", false],
  ["2026-02-28T23:59:59.999999Z", true],
  ["2026-04-31T00:00:00Z", false],
  ["2026-03-29T00:00:00Z", true],
  ["2026-12-31T23:59:59-15:59", true],
  ["2026-12-31T23:59:60Z", false],
  ["2026-12-31T24:00:00Z", false],
  ["2026-01-01T00:00:00+16:00", false],
  ["0000-01-01T00:00:00Z", false],
  ["0001-01-01T00:00:00Z", true],
])("at the edges of the calendar too: %s", (occurredAt, isTime) => {
  const value = { ...good, occurred_at: occurredAt };
  expect([read(value).row !== undefined, fits("Event", value)]).toEqual([isTime, isTime]);
});

test("a row is the event, in the form that is stored", () => {
  const upload = { refuse: () => {} };
  expect(read({ ...good, currency: "EUR" })).toMatchObject({
    row: { ...good, account: "acct_a", livemode: false, version: 0, line: 7 },
  });
  expect(readEvent({ ...good, version: 3 }, 1, { account: "b", livemode: true, upload })).toEqual({
    ...good,
    account: "b",
    livemode: true,
    version: 3,
    line: 1,
    upload,
  });
});
