import { watchEpoch } from "../../src/stores/epoch.js";
import { createManualClock, settled } from "../support/manual-clock.js";

/** A watch whose store answers `answer` when it is asked. */
function watch(believedMs: number) {
  const clock = createManualClock();
  const asked = { times: 0, answer: undefined as string | undefined };
  const epoch = watchEpoch({
    believedMs,
    clock,
    refresh: async () => {
      const atMs = clock.monotonicMs();
      asked.times += 1;
      await Promise.resolve();
      if (asked.answer === undefined) throw new Error("Postgres is away");
      epoch.read(asked.answer, atMs);
    },
  });
  return { clock, asked, epoch };
}

test("what is unknown is asked for once, when somebody wants to know", async () => {
  const { asked, epoch } = watch(Infinity);
  expect([epoch.isKnown(), asked.times]).toEqual([false, 0]);
  asked.answer = "one";
  expect([epoch.current(), epoch.current(), asked.times]).toEqual([undefined, undefined, 1]);
  await settled();
  expect([epoch.current(), epoch.isKnown(), asked.times]).toEqual(["one", true, 1]);
});

test("without a pooler it is believed until a connection is lost", async () => {
  const { clock, epoch } = watch(Infinity);
  epoch.read("one", clock.monotonicMs());
  await clock.advance(86_400_000);
  expect(epoch.current()).toBe("one");
  epoch.read(undefined, clock.monotonicMs());
  expect(epoch.current()).toBeUndefined();
});

test("behind a pooler it is believed for a while, from before the question, and asked for again in time", async () => {
  const { clock, asked, epoch } = watch(1_000);
  const askedAtMs = clock.monotonicMs();
  await clock.advance(400);
  epoch.read("one", askedAtMs);
  expect([epoch.current(), asked.times]).toEqual(["one", 0]);
  await clock.advance(200);
  expect([epoch.current(), asked.times]).toEqual(["one", 1]);
  await settled();
  await clock.advance(401);
  expect(epoch.current()).toBeUndefined();
  asked.answer = "two";
  await settled();
  epoch.current();
  await settled();
  expect(epoch.current()).toBe("two");
});

test("of two answers the one to the later question counts", () => {
  const { epoch } = watch(Infinity);
  epoch.read("two", 20);
  epoch.read("one", 10);
  expect(epoch.current()).toBe("two");
});
