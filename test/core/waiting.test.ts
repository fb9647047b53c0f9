import { IdempotencyError } from "../../src/core/errors.js";
import type { Watch } from "../../src/core/ports.js";
import type { Outcome } from "../../src/core/request.js";
import { createWaitingRooms, maxWaiters } from "../../src/core/waiting.js";
import type { Looked, WaitingRequest } from "../../src/core/waiting.js";
import { createManualClock, settled } from "../support/manual-clock.js";

const refuse = (
  code: "in_progress" | "key_reused" | "store_unavailable",
  cause?: unknown,
): Outcome => ({
  kind: "refuse",
  error: new IdempotencyError(code, { cause }),
});
const codeOf = (looked: Looked): string => {
  if (looked === "claimed" || looked.kind === "replay") return "answered";
  return looked.error.code;
};

/** Rooms whose looks the test answers. */
function bench() {
  const clock = createManualClock();
  const looks: { readonly who: string; readonly answer: (looked: Looked) => void }[] = [];
  const watches: { onHint: () => void; isStopped: boolean }[] = [];
  let isLive = false;
  const rooms = createWaitingRooms({
    clock,
    watch: (_ref, onHint): Watch => {
      const watch = { onHint, isStopped: false };
      watches.push(watch);
      return { isLive: () => isLive, stop: () => void (watch.isStopped = true) };
    },
  });
  const route = {};
  const wait = (who: string, given: Partial<WaitingRequest> = {}) =>
    rooms.wait({
      scope: "acme",
      key: "order-1",
      fingerprint: "one",
      route,
      waitMs: 10_000,
      signal: new AbortController().signal,
      look: () => new Promise((answer) => looks.push({ who, answer })),
      ...given,
    });
  const answer = async (looked: Looked): Promise<string> => {
    const look = looks.shift();
    if (look === undefined) throw new Error("nobody looks");
    look.answer(looked);
    await settled();
    return look.who;
  };
  return { clock, rooms, looks, watches, wait, answer, live: (now: boolean) => (isLive = now) };
}

describe("equal requests", () => {
  test("share a look, and its answer is theirs", async () => {
    const { looks, rooms, wait, answer } = bench();
    const all = Promise.all([wait("a"), wait("b"), wait("c")]);
    expect(looks.map(({ who }) => who)).toEqual(["a"]);
    await answer(refuse("key_reused"));
    expect((await all).map(codeOf)).toEqual(["key_reused", "key_reused", "key_reused"]);
    expect(rooms.size()).toBe(0);
  });

  test("do not share a claim: the first one has it, the others wait on", async () => {
    const { clock, rooms, looks, wait, answer } = bench();
    const first = wait("a");
    const second = wait("b");
    await answer("claimed");
    expect(await first).toBe("claimed");
    await clock.advance(0);
    expect(looks).toEqual([]);
    rooms.wake({ scope: "acme", key: "order-1" });
    await settled();
    expect(await answer(refuse("key_reused"))).toBe("b");
    expect(codeOf(await second)).toBe("key_reused");
  });

  test("of another route or another body look for themselves, one at a time", async () => {
    const { looks, wait, answer } = bench();
    const all = Promise.all([
      wait("a"),
      wait("other body", { fingerprint: "two" }),
      wait("other route", { route: {} }),
    ]);
    expect(looks).toHaveLength(1);
    expect(await answer(refuse("key_reused"))).toBe("a");
    expect(looks).toHaveLength(1);
    expect(await answer(refuse("key_reused"))).toBe("other body");
    expect(await answer(refuse("key_reused"))).toBe("other route");
    await all;
  });

  test("hear of a store that is away without the cause, since only the one who asked may have claimed", async () => {
    const { wait, answer } = bench();
    const all = Promise.all([wait("a"), wait("b"), wait("c", { fingerprint: "two" })]);
    await answer(refuse("store_unavailable", new Error("gone")));
    const answers = await all;
    expect(answers.map(codeOf)).toEqual(Array(3).fill("store_unavailable"));
    const causes = answers.map((looked) =>
      looked === "claimed" || looked.kind === "replay" ? undefined : looked.error.cause,
    );
    expect(causes.map((cause) => cause !== undefined)).toEqual([true, false, false]);
  });

  test("are answered a few in a turn", async () => {
    const { clock, rooms, wait, answer } = bench();
    const all = Promise.all(Array.from({ length: 100 }, (_, index) => wait(String(index))));
    await answer(refuse("key_reused"));
    expect(rooms.size()).toBeGreaterThan(50);
    await clock.advance(0);
    expect((await all).map(codeOf)).toEqual(Array(100).fill("key_reused"));
  });
});

describe("looks", () => {
  test("become rarer, and rarer still while hints come", async () => {
    const { clock, looks, wait, answer, live } = bench();
    void wait("a");
    const busy = refuse("in_progress");
    for (const pauseMs of [25, 50, 100, 200, 400, 500, 500]) {
      await answer(busy);
      await clock.advance(pauseMs - 1);
      expect(looks).toHaveLength(0);
      await clock.advance(1);
      expect(looks).toHaveLength(1);
    }
    live(true);
    await answer(busy);
    await clock.advance(1_999);
    expect(looks).toHaveLength(0);
    await clock.advance(1);
    expect(looks).toHaveLength(1);
  });

  test("follow a hint at once, also one that came during a look, and then once more soon", async () => {
    const { clock, looks, watches, wait, answer, live } = bench();
    live(true);
    void wait("a");
    await answer(refuse("in_progress"));
    watches[0]?.onHint();
    await settled();
    expect(looks).toHaveLength(1);
    watches[0]?.onHint();
    await answer(refuse("in_progress"));
    expect(looks).toHaveLength(1);
    await answer(refuse("in_progress"));
    expect(looks).toHaveLength(0);
    await clock.advance(25);
    expect(looks).toHaveLength(1);
    await answer(refuse("in_progress"));
    await clock.advance(249);
    expect(looks).toHaveLength(0);
  });

  test("are not made for a newcomer that is like one who waits", async () => {
    const { looks, wait, answer } = bench();
    void wait("a");
    await answer(refuse("in_progress"));
    void wait("b");
    await settled();
    expect(looks).toHaveLength(0);
    void wait("other", { fingerprint: "two" });
    await settled();
    expect(looks.map(({ who }) => who)).toEqual(["other"]);
  });
});

describe("a waiter leaves", () => {
  test("when its time is up, and not before its first look has ended", async () => {
    const { clock, rooms, looks, wait, answer } = bench();
    const short = wait("a", { waitMs: 10 });
    const long = wait("b", { waitMs: 1_000 });
    const follower = wait("c", { waitMs: 10 });
    await clock.advance(10);
    expect(rooms.size()).toBe(3);
    await answer(refuse("in_progress"));
    expect((await Promise.all([short, follower])).map(codeOf)).toEqual(
      Array(2).fill("in_progress"),
    );
    expect(rooms.size()).toBe(1);
    await clock.advance(25);
    expect(looks.map(({ who }) => who)).toEqual(["b"]);
    await answer(refuse("in_progress"));
    await clock.advance(965);
    if (looks.length > 0) await answer(refuse("in_progress"));
    expect(codeOf(await long)).toBe("in_progress");
  });

  test("when its client is gone; a claim that it is just making is still its own", async () => {
    const { clock, rooms, watches, wait, answer } = bench();
    const [one, two] = [new AbortController(), new AbortController()];
    const first = wait("a", { signal: one.signal });
    const second = wait("b", { signal: two.signal });
    one.abort();
    two.abort();
    expect(codeOf(await second)).toBe("in_progress");
    expect(rooms.size()).toBe(1);
    await answer("claimed");
    expect(await first).toBe("claimed");
    expect(rooms.size()).toBe(0);
    expect(watches).toEqual([]);
    expect(clock.waiting()).toBe(0);
  });

  test("with the last one the key is watched no more, and nothing stays behind", async () => {
    const { clock, rooms, watches, wait, answer } = bench();
    const client = new AbortController();
    const waiter = wait("a", { signal: client.signal });
    await answer(refuse("in_progress"));
    expect(watches).toHaveLength(1);
    client.abort();
    await waiter;
    await settled();
    expect(watches[0]?.isStopped).toBe(true);
    expect(rooms.size()).toBe(0);
    expect(clock.waiting()).toBe(0);
  });

  test("at a shutdown: 409 for what is known to run, 503 for what is not known", async () => {
    const { rooms, wait, answer } = bench();
    const known = wait("a");
    await answer(refuse("in_progress"));
    const unknown = [wait("b", { key: "order-2" }), wait("c", { key: "order-2" })];
    rooms.close();
    expect(codeOf(await known)).toBe("in_progress");
    expect(codeOf(await (unknown[1] as Promise<Looked>))).toBe("store_unavailable");
    await answer(refuse("in_progress"));
    expect(codeOf(await (unknown[0] as Promise<Looked>))).toBe("in_progress");
    expect(codeOf(await wait("late"))).toBe("store_unavailable");
    expect(rooms.size()).toBe(0);
  });
});

test("there is room for so many and no more", async () => {
  const { rooms, wait } = bench();
  const clients = Array.from({ length: maxWaiters }, () => new AbortController());
  const waiters = clients.map(({ signal }, index) => wait(String(index), { signal }));
  expect(rooms.hasRoom()).toBe(false);
  clients[maxWaiters - 1]?.abort();
  await waiters[maxWaiters - 1];
  expect(rooms.hasRoom()).toBe(true);
});
