import { isAnswered, isConflict, sqlStateOf } from "../../src/stores/sql-state.js";

const byServer = (code: string): Error =>
  Object.assign(new Error("from the server"), { code, severity: "ERROR" });

test.each([
  ["an error of pg", byServer("23505"), "23505"],
  ["one that Drizzle wrapped", new Error("Failed query", { cause: byServer("40001") }), "40001"],
  [
    "one that TypeORM wrapped",
    Object.assign(new Error(""), { driverError: byServer("40P01") }),
    "40P01",
  ],
  [
    "one that Prisma wrapped",
    Object.assign(new Error(""), {
      code: "P2034",
      meta: { driverAdapterError: new Error("", { cause: { originalCode: "40001" } }) },
    }),
    "40001",
  ],
  [
    "a broken pipe, whose code looks alike",
    Object.assign(new Error(""), { code: "EPIPE" }),
    undefined,
  ],
  ["a code of Prisma", Object.assign(new Error(""), { code: "P2028" }), undefined],
  ["a text", "40001", undefined],
  ["nothing", undefined, undefined],
])("%s", (_what, error, state) => {
  expect(sqlStateOf(error)).toBe(state);
});

test("an error that contains itself has an end", () => {
  const error: { cause?: unknown } = {};
  error.cause = error;
  expect(sqlStateOf(error)).toBeUndefined();
});

test("only a server that goes on has answered", () => {
  expect(["23505", "40001", "25P02", "57014"].map((code) => isAnswered(byServer(code)))).toEqual([
    true,
    true,
    true,
    true,
  ]);
  expect(["08006", "57P01", "57P03"].map((code) => isAnswered(byServer(code)))).toEqual([
    false,
    false,
    false,
  ]);
});

test("a serialization failure and a deadlock are conflicts, and nothing else is", () => {
  expect(["40001", "40P01", "40002", "23505"].map((code) => isConflict(byServer(code)))).toEqual([
    true,
    true,
    false,
    false,
  ]);
});
