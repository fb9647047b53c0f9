import { attemptFor, pauseAfter } from "../../src/core/retry.js";
import { createManualClock, settled } from "../support/manual-clock.js";

/** A verb that fails a number of times and then answers, and how often it was called. */
function failing(times: number, error: unknown = new Error("away")) {
  const calls = { count: 0 };
  const work = async (): Promise<string> => {
    calls.count += 1;
    if (calls.count <= times) throw error;
    return "answer";
  };
  return { calls, work };
}

const never = (): Promise<string> => new Promise(() => undefined);

test("an answer is passed on at once, and no timer is left behind", async () => {
  const clock = createManualClock();
  expect(await attemptFor(clock, 1_000, async () => "answer")).toEqual({
    kind: "answered",
    answer: "answer",
  });
  expect(clock.waiting()).toBe(0);
});

test("a failure is tried again after 20 ms and more, until there is an answer", async () => {
  const clock = createManualClock(0);
  const { calls, work } = failing(3);
  const attempted = attemptFor(clock, 1_000, work);
  await settled();
  expect(calls.count).toBe(1);
  await clock.advance(19);
  expect(calls.count).toBe(1);
  await clock.advance(1);
  expect(calls.count).toBe(2);
  await clock.advance(40);
  expect(await attempted).toEqual({ kind: "answered", answer: "answer" });
  expect(calls.count).toBe(4);
  expect(clock.waiting()).toBe(0);
});

test("it gives up with the last error when the next pause would end after the budget", async () => {
  const clock = createManualClock(0);
  const { calls, work } = failing(Infinity);
  const attempted = attemptFor(clock, 60, work);
  await clock.advance(60);
  expect(await attempted).toEqual({ kind: "gave_up", error: new Error("away") });
  // At 0, 20 and 40 ms; a fourth one at 60 ms would begin when the time is up.
  expect(calls.count).toBe(3);
});

test("an error that repeating cannot mend is not repeated", async () => {
  const clock = createManualClock();
  const error = new Error("no such table");
  const { calls, work } = failing(Infinity, error);
  const isFinal = (given: unknown): boolean => given === error;
  expect(await attemptFor(clock, 1_000, work, { isFinal })).toEqual({ kind: "gave_up", error });
  expect(calls.count).toBe(1);
});

describe("a call that hangs", () => {
  test("is left behind when the budget is over", async () => {
    const clock = createManualClock();
    const attempted = attemptFor(clock, 500, never);
    await clock.advance(499);
    await expect(Promise.race([attempted, Promise.resolve("still waiting")])).resolves.toBe(
      "still waiting",
    );
    await clock.advance(1);
    expect(await attempted).toEqual({
      kind: "gave_up",
      error: new Error("the store gave no answer in time"),
    });
    expect(clock.waiting()).toBe(0);
  });

  test("hands a late answer to whoever can give it back, once", async () => {
    const clock = createManualClock();
    const late: string[] = [];
    let answer: (text: string) => void = () => undefined;
    const work = (): Promise<string> => new Promise((resolve) => (answer = resolve));
    const attempted = attemptFor(clock, 500, work, { onLate: (text) => late.push(text) });
    await clock.advance(500);
    expect(await attempted).toMatchObject({ kind: "gave_up" });
    expect(late).toEqual([]);
    answer("a claim that nobody will use");
    await settled();
    expect(late).toEqual(["a claim that nobody will use"]);
  });

  test("may fail late without anybody being told", async () => {
    const clock = createManualClock();
    let fail: (error: Error) => void = () => undefined;
    const work = (): Promise<string> => new Promise((_resolve, reject) => (fail = reject));
    const attempted = attemptFor(clock, 500, work);
    await clock.advance(500);
    expect(await attempted).toMatchObject({ kind: "gave_up" });
    fail(new Error("connection reset"));
    await settled();
  });

  test("gets only what an earlier failure has left of the budget", async () => {
    const clock = createManualClock(0);
    let calls = 0;
    const attempted = attemptFor(clock, 100, () => {
      calls += 1;
      return calls === 1 ? Promise.reject(new Error("away")) : never();
    });
    await clock.advance(99);
    await expect(Promise.race([attempted, Promise.resolve("still waiting")])).resolves.toBe(
      "still waiting",
    );
    await clock.advance(1);
    expect(await attempted).toMatchObject({ kind: "gave_up" });
    expect(calls).toBe(2);
  });
});

test("an answer in time is never told as a late one", async () => {
  const late: string[] = [];
  const clock = createManualClock();
  await attemptFor(clock, 500, async () => "in time", { onLate: (text) => late.push(text) });
  await clock.advance(1_000);
  expect(late).toEqual([]);
});

test.each([
  [0, 0, 20],
  [0, 1, 40],
  [1, 1, 60],
  [3, 0.5, 100],
  [6, 1, 1_300],
  [7, 1, 2_020],
  [1_000, 1, 2_020],
  [1_000, 0, 20],
])("after %i tries and a draw of %d the pause is %i ms", (tries, random, expected) => {
  expect(pauseAfter(tries, random)).toBe(expected);
});
