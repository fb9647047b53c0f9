import * as fc from "fast-check";

import { type BatcherOptions, createBatcher } from "../../src/stores/batcher.js";
import { waitFor } from "../support/wait-for.js";

interface Sent {
  readonly items: readonly string[];
  readonly answer: () => void;
  readonly fail: (error: unknown) => void;
}

/** A batcher of words, whose name is their first letter and whose batches are answered by hand. */
function open(given: Partial<BatcherOptions<string, string>> = {}) {
  const sent: Sent[] = [];
  const add = createBatcher<string, string>({
    send: (items) =>
      new Promise((resolve, reject) => {
        const answer = () => resolve(items.map((item) => item.toUpperCase()));
        sent.push({ items, answer, fail: reject });
      }),
    nameOf: (item) => item.charAt(0),
    isPoisoned: (error) => error === "poisoned",
    maxBatch: 3,
    maxInFlight: 1,
    maxWaiting: 100,
    ...given,
  });
  const batch = (index: number): Promise<Sent> => waitFor(() => sent[index]);
  return { add, sent, batch };
}

test("one item leaves alone, what gathers meanwhile leaves together in the order of names", async () => {
  const { add, sent, batch } = open();
  const first = add("m1");
  expect((await batch(0)).items).toEqual(["m1"]);
  const others = ["c1", "a1", "b1"].map(add);
  (await batch(0)).answer();
  expect(await first).toBe("M1");
  expect((await batch(1)).items).toEqual(["a1", "b1", "c1"]);
  (await batch(1)).answer();
  expect(await Promise.all(others)).toEqual(["C1", "A1", "B1"]);
  expect(sent).toHaveLength(2);
});

test("items of one name never share a batch, and leave in their order", async () => {
  const { add, batch } = open();
  const all = ["a1", "a2", "b1", "a3"].map(add);
  for (const expected of [["a1", "b1"], ["a2"], ["a3"]]) {
    const index = Number(expected[0]?.charAt(1)) - 1;
    expect((await batch(index)).items).toEqual(expected);
    (await batch(index)).answer();
  }
  expect(await Promise.all(all)).toEqual(["A1", "A2", "B1", "A3"]);
});

test("a batch is no larger, and no more are under way, than allowed", async () => {
  const { add, sent, batch } = open({ maxBatch: 2, maxInFlight: 2 });
  const all = "abcdefg".split("").map(add);
  await batch(1);
  await new Promise(setImmediate);
  expect(sent.map(({ items }) => items)).toEqual([
    ["a", "b"],
    ["c", "d"],
  ]);
  for (let index = 0; index < 4; index += 1) (await batch(index)).answer();
  expect(await Promise.all(all)).toEqual("ABCDEFG".split(""));
});

describe("beside a batch that is under way", () => {
  const soon = { maxInFlight: 2, besideAfterMs: 20 };
  const never = { maxInFlight: 2, besideAfterMs: 1_000_000 };

  test("what gathers waits for its answer, where that comes soon", async () => {
    const { add, sent, batch } = open(never);
    const first = add("a");
    await batch(0);
    const others = ["b", "c"].map(add);
    await new Promise(setImmediate);
    expect(sent).toHaveLength(1);
    (await batch(0)).answer();
    await first;
    expect((await batch(1)).items).toEqual(["b", "c"]);
    // Not beside this one either.
    const last = add("d");
    await new Promise(setImmediate);
    expect(sent).toHaveLength(2);
    (await batch(1)).answer();
    (await batch(2)).answer();
    expect(await Promise.all([...others, last])).toEqual(["B", "C", "D"]);
  });

  test("a full batch leaves at once", async () => {
    const { add, batch } = open(never);
    const first = add("a");
    await batch(0);
    const others = ["b", "c", "d"].map(add);
    expect((await batch(1)).items).toEqual(["b", "c", "d"]);
    (await batch(1)).answer();
    expect(await Promise.all(others)).toEqual(["B", "C", "D"]);
    (await batch(0)).answer();
    await first;
  });

  test("the next one leaves when it hangs, and no more than may be under way", async () => {
    const { add, sent, batch } = open(soon);
    const hanging = add("a");
    await batch(0);
    const second = add("b");
    expect((await batch(1)).items).toEqual(["b"]);
    const third = add("c");
    (await batch(1)).answer();
    expect(await second).toBe("B");
    expect((await batch(2)).items).toEqual(["c"]);
    (await batch(2)).answer();
    expect(await third).toBe("C");
    expect(sent).toHaveLength(3);
    (await batch(0)).answer();
    expect(await hanging).toBe("A");
  });
});

describe("a batch that has a limit to what it weighs", () => {
  const weighing = { weightOf: (item: string) => Number(item.slice(1)), maxWeight: 10 };

  test("takes what is no heavier, in the order of arrival", async () => {
    const { add, batch } = open({ ...weighing, maxBatch: 100 });
    const all = ["a5", "b5", "c1", "d4", "e6", "f1"].map(add);
    for (const [index, expected] of [
      ["a5", "b5"],
      ["c1", "d4"],
      ["e6", "f1"],
    ].entries()) {
      expect((await batch(index)).items).toEqual(expected);
      (await batch(index)).answer();
    }
    await Promise.all(all);
  });

  test("takes one that is heavier by itself alone", async () => {
    const { add, batch } = open({ ...weighing, maxBatch: 100 });
    const all = ["a99", "b1", "c99", "d1"].map(add);
    for (const [index, expected] of [["a99"], ["b1"], ["c99"], ["d1"]].entries()) {
      expect((await batch(index)).items).toEqual(expected);
      (await batch(index)).answer();
    }
    await Promise.all(all);
  });

  test("lets nobody pass an item of its own name that has no room", async () => {
    const { add, batch } = open({ ...weighing, maxBatch: 100 });
    const all = ["a9", "b9", "b1"].map(add);
    for (const [index, expected] of [["a9"], ["b9"], ["b1"]].entries()) {
      expect((await batch(index)).items).toEqual(expected);
      (await batch(index)).answer();
    }
    await Promise.all(all);
  });
});

test("what has failed by itself comes again beside the batches of others, one by one", async () => {
  const { add, sent, batch } = open();
  const fail = async (index: number): Promise<void> => (await batch(index)).fail("poisoned");
  const first = ["a1", "bad", "c1"].map(add);
  const outcomes = Promise.allSettled(first);
  await fail(0);
  (await batch(1)).answer();
  await fail(2);
  (await batch(3)).answer();
  expect((await outcomes).map(({ status }) => status)).toEqual([
    "fulfilled",
    "rejected",
    "fulfilled",
  ]);
  const again = ["bad", "b2"].map(add);
  const others = ["d1", "e1"].map(add);
  expect((await batch(4)).items).toEqual(["bad"]);
  expect((await batch(5)).items).toEqual(["d1", "e1"]);
  (await batch(5)).answer();
  await Promise.all(others);
  expect(sent).toHaveLength(6);
  (await batch(4)).answer();
  expect((await batch(6)).items).toEqual(["b2"]);
  (await batch(6)).answer();
  await Promise.all(again);
  // It went well, so that it is like any other.
  const third = ["f1", "bad"].map(add);
  expect((await batch(7)).items).toEqual(["bad", "f1"]);
  (await batch(7)).answer();
  await Promise.all(third);
});

test("what waits to leave alone counts among what may wait", async () => {
  const { add, batch } = open({ maxWaiting: 2 });
  const outcomes = Promise.allSettled(["a1", "bad"].map(add));
  for (const index of [0, 1, 2]) (await batch(index)).fail("poisoned");
  await outcomes;
  const all = [add("bad")];
  await batch(3);
  all.push(add("b2"), add("b3"));
  await expect(add("c1")).rejects.toThrow("more than 2 operations wait");
  for (const index of [3, 4, 5]) (await batch(index)).answer();
  expect(await Promise.all(all)).toEqual(["BAD", "B2", "B3"]);
});

test("a poisoned batch is sent one by one, and fails for the bad item alone", async () => {
  const { add, sent, batch } = open();
  const all = ["a", "b", "c"].map(add);
  const outcome = Promise.allSettled(all);
  (await batch(0)).fail("poisoned");
  (await batch(1)).answer();
  (await batch(2)).fail("poisoned");
  (await batch(3)).answer();
  expect(await outcome).toEqual([
    { status: "fulfilled", value: "A" },
    { status: "rejected", reason: "poisoned" },
    { status: "fulfilled", value: "C" },
  ]);
  expect(sent.map(({ items }) => items)).toEqual([["a", "b", "c"], ["a"], ["b"], ["c"]]);
});

test("any other failure is everybody's, and the next batch leaves", async () => {
  const { add, sent, batch } = open();
  const outcome = Promise.allSettled(["a", "b"].map(add));
  (await batch(0)).fail("gone");
  expect(await outcome).toEqual([
    { status: "rejected", reason: "gone" },
    { status: "rejected", reason: "gone" },
  ]);
  const next = add("c");
  (await batch(1)).answer();
  expect(await next).toBe("C");
  expect(sent).toHaveLength(2);
});

test("more than may wait is refused at once", async () => {
  const { add, batch } = open({ maxWaiting: 2 });
  const taken = [add("a"), add("b")];
  await expect(add("c")).rejects.toThrow("more than 2 operations wait for the store");
  (await batch(0)).answer();
  expect(await Promise.all(taken)).toEqual(["A", "B"]);
});

test("every item gets its own answer, whatever comes when", async () => {
  const words = fc.array(fc.string({ minLength: 1, maxLength: 3 }), { maxLength: 60 });
  const limits = {
    maxBatch: fc.integer({ min: 1, max: 9 }),
    maxInFlight: fc.integer({ min: 1, max: 3 }),
  };
  await fc.assert(
    fc.asyncProperty(words, fc.record(limits), async (items, { maxBatch, maxInFlight }) => {
      let underWay = 0;
      const add = createBatcher<string, string>({
        send: async (batch) => {
          underWay += 1;
          expect(underWay).toBeLessThanOrEqual(maxInFlight);
          expect(batch.length).toBeLessThanOrEqual(maxBatch);
          const names = batch.map((item) => item.charAt(0));
          expect(names).toEqual([...new Set(names)].sort());
          await new Promise(setImmediate);
          underWay -= 1;
          return batch.map((item) => `<${item}>`);
        },
        nameOf: (item) => item.charAt(0),
        isPoisoned: () => false,
        maxBatch,
        maxInFlight,
        maxWaiting: 100,
      });
      expect(await Promise.all(items.map(add))).toEqual(items.map((item) => `<${item}>`));
    }),
    { seed: 20_240_503, numRuns: 100 },
  );
});
