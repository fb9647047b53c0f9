/** Arrays in Postgres' binary format: the server reads back what was written, and nothing that no element is leaves memory. */
import { randomUUID } from "node:crypto";

import {
  bigintArray,
  booleanArray,
  byteaArray,
  doubleArray,
  hashArray,
  InvalidElement,
  smallintArray,
  textArray,
  uuidArray,
} from "../../src/stores/binary-array.js";
import { useDatabase } from "../support/databases.js";

const database = useDatabase();

async function read(type: string, array: Buffer): Promise<unknown> {
  const { rows } = await database.pool.query<{ read: unknown }>(
    `SELECT to_json($1::${type}[]) AS read`,
    [array],
  );
  return rows[0]?.read;
}

const uuids = [randomUUID(), "00000000-0000-0000-0000-000000000000"];

test.each<[type: string, array: Buffer, expected: unknown]>([
  ["text", textArray(["", "a", null, 'quoted "text", {braces} and \\', "Zürich 💶"]), undefined],
  ["uuid", uuidArray(uuids), uuids],
  ["bigint", bigintArray([0, 1, 2 ** 32 - 1, 2 ** 32, 2 ** 53 - 1]), undefined],
  ["smallint", smallintArray([201, null, 599]), [201, null, 599]],
  ["float8", doubleArray([0, 0.5, 86_400_000, 2 ** 53]), [0, 0.5, 86_400_000, 2 ** 53]],
  ["boolean", booleanArray([true, false]), [true, false]],
  ["text", textArray([]), []],
])("%s[]", async (type, array, expected) => {
  const texts = ["", "a", null, 'quoted "text", {braces} and \\', "Zürich 💶"];
  const numbers = [0, 1, 4_294_967_295, 4_294_967_296, 9_007_199_254_740_991];
  const found = await read(type, array);
  expect(found).toEqual(expected ?? (type === "text" ? texts : numbers));
});

test("64 bits of any hash arrive as they are", async () => {
  const { rows } = await database.pool.query<{ hash: string }>(
    "SELECT unnest($1::bigint[])::text AS hash",
    [hashArray(["-9223372036854775808", "9223372036854775807", "-1"])],
  );
  expect(rows.map(({ hash }) => hash)).toEqual([
    "-9223372036854775808",
    "9223372036854775807",
    "-1",
  ]);
});

test("bytes arrive as they are, empty and absent ones too", async () => {
  const all = Buffer.from(Array.from({ length: 256 }, (_, byte) => byte));
  const { rows } = await database.pool.query<{ bytes: Buffer | null }>(
    "SELECT unnest($1::bytea[]) AS bytes",
    [byteaArray([all, new Uint8Array(), null])],
  );
  expect(rows.map(({ bytes }) => bytes)).toEqual([all, Buffer.alloc(0), null]);
});

test.each([
  ["a UUID that is too short", () => uuidArray([randomUUID(), "1234"])],
  ["a UUID that is none", () => uuidArray(["not-a-uuid-at-all-but-of-36-characters"])],
  ["a status that is too large", () => smallintArray([99_999])],
  ["a hash that is no number", () => hashArray(["x"])],
])("%s is refused, and nothing is sent", (_what, make) => {
  expect(make).toThrow(InvalidElement);
});
