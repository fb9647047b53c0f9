/**
 * Choices that a seed decides: the same seed draws the same requests in the same order. Numbers come from a small generator
 * of our own, odd texts and values from fast-check, which knows where parsers stumble.
 */
import fc from "fast-check";

import { seededRandom } from "../support/tcp-proxy.js";

/** How many values are drawn from fast-check at once. */
const poolSize = 256;

/** As src/server/fields.ts has it: what Postgres cannot hold is refused. */
const notStorable = /\0|\p{Surrogate}/u;

const oddTexts = [
  "",
  "\0",
  "\ud800",
  "__proto__",
  "constructor",
  "toString",
  "'; DROP TABLE charges; --",
  "%00",
  "\u202e",
  "💶",
  "é",
  "e\u0301",
  "-0",
  "1e309",
  "NaN",
  "a".repeat(1_001),
];

const oddNumbers = [
  0,
  -0,
  -1,
  0.1,
  1e21,
  2 ** 31,
  2 ** 53 - 1,
  2 ** 53,
  99_999_999,
  100_000_000,
  5e-324,
  1.7976931348623157e308,
];

const storableTexts = fc
  .string({ unit: "binary", minLength: 1, maxLength: 20 })
  .filter((text) => !notStorable.test(text) && text !== "__proto__");
const texts = fc.oneof(
  fc.string({ unit: "binary", maxLength: 80 }),
  fc.constantFrom(...oddTexts),
  fc.string({ unit: "grapheme", maxLength: 20 }),
);
const values = fc.oneof(
  fc.jsonValue({ maxDepth: 3 }),
  texts,
  fc.constantFrom(...oddNumbers),
  fc.dictionary(fc.oneof(texts, fc.constantFrom("amount", "items", "__proto__")), fc.jsonValue(), {
    maxKeys: 8,
  }),
);
const printable = fc.string({ unit: "grapheme-ascii", minLength: 1, maxLength: 60 });

export type Draw = {
  /** From 0 up to and without `below`. */
  int(below: number): number;
  chance(probability: number): boolean;
  pick<T>(list: readonly T[]): T;
  /** One of the keys, as often as their numbers say. */
  weighted<Name extends string>(weights: Readonly<Record<Name, number>>): Name;
  bytes(length: number): Buffer;
  hex(length: number): string;
  /** Any text, broken Unicode included. */
  text(): string;
  /** Text that the API stores. */
  storableText(): string;
  /** Printable ASCII, 1 to 60 characters. */
  printable(): string;
  /** Any JSON value. */
  value(): unknown;
};

/** Draws by `seed`. */
export function createDraw(seed: number): Draw {
  const random = seededRandom(seed);
  const int = (below: number): number => Math.floor(random() * below);
  const pooled = <T>(arbitrary: fc.Arbitrary<T>): (() => T) => {
    let pool: T[] = [];
    return () => {
      if (pool.length === 0) pool = fc.sample(arbitrary, { seed: int(2 ** 31), numRuns: poolSize });
      return pool.pop() as T;
    };
  };
  const bytes = (length: number): Buffer => Buffer.from(Array.from({ length }, () => int(256)));
  return {
    int,
    bytes,
    chance: (probability) => random() < probability,
    pick: (list) => list[int(list.length)]!,
    weighted: (weights) => {
      const names = Object.keys(weights) as (keyof typeof weights)[];
      let left = random() * names.reduce((sum, name) => sum + weights[name], 0);
      return names.find((name) => (left -= weights[name]) < 0) ?? names[0]!;
    },
    hex: (length) =>
      bytes(Math.ceil(length / 2))
        .toString("hex")
        .slice(0, length),
    text: pooled(texts),
    storableText: pooled(storableTexts),
    printable: pooled(printable),
    value: pooled(values),
  };
}
