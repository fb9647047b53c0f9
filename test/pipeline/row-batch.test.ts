/** The rows of a batch before any server sees them: which one of a key stays, and in what order they go. */
import fc from "fast-check";

import type { SinkTable } from "../../src/pipeline/catalog.js";
import { encoderFor } from "../../src/pipeline/encoders.js";
import { encodeKey, hashEncodedKey, RowBatch } from "../../src/pipeline/row-batch.js";
import { RowBuffer } from "../../src/pipeline/row-buffer.js";

type Row = Readonly<Record<string, unknown>>;

function tableOf(
  types: Readonly<Record<string, string>>,
  keys: number,
  version?: string,
): SinkTable {
  const columns = Object.entries(types).map(([name, type], index) => {
    const columnType = { name: type, oid: 1, modifier: -1, element: undefined };
    const encode = encoderFor(columnType, index < keys);
    if (encode === undefined) throw new Error(`no encoder of ${type}`);
    const shown = { shown: type, bare: type };
    return { name, type: columnType, ...shown, isNotNull: false, encode, isCast: false };
  });
  return {
    shape: "",
    target: "public.t",
    quoted: "t",
    columns,
    keyColumns: columns.slice(0, keys),
    keyIndexes: [],
    versionColumn: columns.find(({ name }) => name === version),
    hasLargestKey: false,
    takesCopy: true,
  };
}

/** `hash`: undefined for the one of the key's bytes. */
function add(batch: RowBatch<Row>, table: SinkTable, rows: readonly Row[], hash?: number): void {
  const key = new RowBuffer();
  for (const [index, row] of rows.entries()) {
    key.at = 0;
    expect(encodeKey(table, row, key)).toBeUndefined();
    expect(batch.add(row, index + 1, key, hash ?? hashEncodedKey(key, 7))).toBeUndefined();
  }
}

function kept(batch: RowBatch<Row>): [number, Row][] {
  return [...batch.sorted()].map((place) => [batch.numberAt(place), batch.rowAt(place)]);
}

const bytesFirst = (a: Row, b: Row): number => Buffer.compare(a["k"] as Buffer, b["k"] as Buffer);
/** Keys that share beginnings, end in zeros, are empty, or repeat. */
const keys = fc.array(
  fc
    .tuple(
      fc.constantFrom("", "same beginning of eleven"),
      fc.array(fc.constantFrom(0, 1, 255), { maxLength: 9 }),
    )
    .map(([text, bytes]) => Buffer.concat([Buffer.from(text), Buffer.from(bytes)])),
  { maxLength: 400 },
);

// With one hash for all keys, only their bytes can tell them apart.
test.each([{ hash: undefined }, { hash: 0 }, { hash: -1 }])(
  "one row of each key stays, in the order of the keys' bytes, whatever their hashes: %p",
  ({ hash }) => {
    const table = tableOf({ k: "bytea", v: "int4" }, 1);
    fc.assert(
      fc.property(
        keys,
        fc.constantFrom("ignore" as const, "overwrite" as const),
        (given, onDuplicate) => {
          const rows = given.map((k, v) => ({ k, v }));
          const expected = new Map<string, { k: Buffer; v: number }>();
          for (const row of rows) {
            const key = row.k.toString("hex");
            if (onDuplicate === "overwrite" || !expected.has(key)) expected.set(key, row);
          }
          const batch = new RowBatch<Row>(table, onDuplicate);
          // The second time in the room of the first.
          for (let run = 0; run < 2; run += 1) {
            add(batch, table, rows, hash);
            expect(kept(batch)).toEqual(
              [...expected.values()].sort(bytesFirst).map((row) => [row.v + 1, row]),
            );
            expect(batch.duplicates).toBe(rows.length - expected.size);
            batch.clear();
            expect([batch.size, batch.bytes, batch.duplicates]).toEqual([0, 0, 0]);
          }
        },
      ),
      { numRuns: 150 },
    );
  },
);

test("keys of several columns do not run into each other", () => {
  const table = tableOf({ a: "text", b: "text" }, 2);
  const batch = new RowBatch<Row>(table, "ignore");
  const rows = [
    { a: "x", b: "yz" },
    { a: "xy", b: "z" },
    { a: "x", b: "yz" },
  ];
  add(batch, table, rows, 0);
  expect(kept(batch).map(([number]) => number)).toEqual([1, 2]);
  expect(batch.duplicates).toBe(1);
});

test.each([
  // Numbers of the rows that are left, where versions are compared here and where only the server can.
  ["int8", [3, 1, 2], [1], 2],
  ["int8", [1, 2, 3], [3], 2],
  ["int8", [-1, -5, 0x1_0000_0000], [3], 2],
  ["int8", [2, 2, 1], [1, 2, 3], 0],
  ["int8", [2, 2, 5], [1, 2, 3], 0],
  ["text", [1, 2, 3], [1, 2, 3], 0],
] as const)("with versions of %s %p stay %p", (type, versions, numbers, duplicates) => {
  const table = tableOf({ k: "text", n: type, v: "int4" }, 1, "n");
  const batch = new RowBatch<Row>(table, "overwrite");
  const rows = versions.map((n, v) => ({ k: "a", n: type === "text" ? String(n) : n, v }));
  add(batch, table, rows);
  // In the order in which they came.
  expect(kept(batch).map(([number]) => number)).toEqual(numbers);
  expect(batch.hasTies).toBe(numbers.length > 1);
  expect(batch.duplicates).toBe(duplicates);
});

test("rows of one key are found again when the batch has grown between them", () => {
  const table = tableOf({ k: "int4", n: "text" }, 1, "n");
  const batch = new RowBatch<Row>(table, "overwrite");
  const rows = Array.from({ length: 3_000 }, (_, index) => ({ k: index % 1_000, n: `${index}` }));
  add(batch, table, rows);
  const found = kept(batch).map(([number]) => number);
  // Of a key in the order in which they came.
  expect(found).toEqual(
    Array.from({ length: 3_000 }, (_, index) => Math.floor(index / 3) + (index % 3) * 1_000 + 1),
  );
  // The same row again is no tie.
  add(batch, table, [rows[5] as Row]);
  expect(batch.duplicates).toBe(1);
  batch.clear();
  expect(batch.hasTies).toBe(false);
});

test("a row that is not taken leaves nothing behind", () => {
  const table = tableOf({ k: "text", v: "int4" }, 1);
  const batch = new RowBatch<Row>(table, "ignore");
  add(batch, table, [{ k: "a", v: 1 }]);
  const { bytes } = batch;
  const key = new RowBuffer();
  encodeKey(table, { k: "b" }, key);
  expect(batch.add({ k: "b", v: "x" }, 2, key, hashEncodedKey(key, 7))).toEqual({
    column: "v",
    problem: "is not an integer, as int4 takes",
  });
  expect([batch.bytes, batch.size]).toEqual([bytes, 1]);
  add(batch, table, [{ k: "b", v: 2 }]);
  expect(batch.size).toBe(2);
});

describe("where the server refuses the row that was kept", () => {
  const table = tableOf({ k: "text", v: "int4", n: "int4" }, 1);
  const rows = [1, 1, 2, 3].map((v) => ({ k: "a", v, n: 0 }));

  test.each([
    ["overwrite", 4, [3, 1]],
    ["ignore", 1, [3, 4]],
  ] as const)(
    "the others take its place, and equal rows are not held: %s",
    (way, first, beaten) => {
      const batch = new RowBatch<Row>(table, way);
      add(batch, table, rows);
      const [place = -1] = batch.sorted();
      const numbers = batch.beatenBy(place).map((other) => batch.numberAt(other));
      expect(numbers).toEqual(beaten);
      expect([batch.numberAt(place), batch.duplicates]).toEqual([first, 3]);
      batch.remove(new Set([place]));
      expect([kept(batch).map(([number]) => number), batch.duplicates]).toEqual([[beaten[0]], 2]);
      batch.clear();
      expect(batch.beatenBy(0)).toEqual([]);
    },
  );

  test("those that were refused with it are no duplicates, and ties are left to the server", () => {
    const versioned = tableOf({ k: "text", n: "int4", v: "int4" }, 1, "n");
    const batch = new RowBatch<Row>(versioned, "overwrite");
    const versions = [3, 2, 5, 3, 4];
    add(
      batch,
      versioned,
      versions.map((n, v) => ({ k: "a", n, v })),
    );
    const [place = -1] = batch.sorted();
    const beaten = batch.beatenBy(place);
    expect(beaten.map((other) => batch.numberAt(other))).toEqual([5, 4, 1, 2]);
    batch.remove(new Set([place, beaten[0] as number]));
    expect(kept(batch).map(([number]) => number)).toEqual([1, 4]);
    expect([batch.hasTies, batch.duplicates]).toEqual([true, 1]);
    const heirs = batch.sorted();
    batch.remove(new Set(heirs));
    expect(kept(batch).map(([number]) => number)).toEqual([2]);
    expect(batch.duplicates).toBe(0);
  });
});
