import type { IdempotencyEvent } from "../../src/core/events.js";
import type { Store } from "../../src/core/ports.js";
import type { Claim, Guarantee, KeyRef } from "../../src/core/record.js";
import { createRunRegister } from "../../src/core/runs.js";
import { memoryStore } from "../../src/stores/memory.js";
import { createManualClock, settled } from "../support/manual-clock.js";

const leaseMs = 30_000;
const heartbeatMs = 10_000;

/** A register on a memory store whose time is the register's own. */
function bench() {
  const clock = createManualClock();
  const memory = memoryStore({ clock });
  const beats: string[][] = [];
  let heartbeat: Store["heartbeat"] = (claims, ms) => memory.heartbeat(claims, ms);
  const store: Store = {
    ...memory,
    heartbeat: (claims, ms) => {
      beats.push(claims.map((claim) => claim.key));
      return heartbeat(claims, ms);
    },
  };
  const events: IdempotencyEvent[] = [];
  const onEvent = (event: IdempotencyEvent): void => void events.push(event);
  const ended: KeyRef[] = [];
  const onEnded = (ref: KeyRef): void => void ended.push(ref);
  const register = createRunRegister({ store, clock, leaseMs, heartbeatMs, onEnded, onEvent });
  const claim = async (key: string, guarantee: Guarantee = "at_most_once"): Promise<Claim> => {
    const answer = await memory.claim({
      scope: "acme",
      key,
      claimId: clock.uuid(),
      guarantee,
      fingerprint: { text: "v1::abc", fieldHashes: "{}" },
      method: "POST",
      path: "/orders",
      requestId: "req_1",
      leaseMs,
    });
    if (answer.kind !== "claimed") throw new Error(`not claimed: ${answer.kind}`);
    return answer.claim;
  };
  const add = (
    held: Claim,
    guarantee: Guarantee = "at_most_once",
    maxRunMs = 900_000,
  ): (() => void) =>
    register.add({
      claim: held,
      guarantee,
      fingerprint: { text: "v1::abc", fieldHashes: "{}" },
      startedMs: clock.monotonicMs(),
      maxRunMs,
    });
  const leaseLeft = async (key: string): Promise<number | undefined> => {
    const found = await memory.find({ scope: "acme", key });
    return found?.record.leaseUntilMs === undefined
      ? undefined
      : found.record.leaseUntilMs - found.nowMs;
  };
  return {
    clock,
    memory,
    beats,
    ended,
    events,
    register,
    claim,
    add,
    leaseLeft,
    useHeartbeat: (other: Store["heartbeat"]) => (heartbeat = other),
  };
}

describe("heartbeats", () => {
  test("keep the leases of everything that runs", async () => {
    const { clock, beats, events, claim, add, leaseLeft } = bench();
    add(await claim("a"));
    add(await claim("b"));
    await clock.advance(9_999);
    expect(beats).toEqual([]);
    await clock.advance(1);
    expect(beats).toEqual([["a", "b"]]);
    await clock.advance(80_000);
    expect(beats).toHaveLength(9);
    expect(await leaseLeft("a")).toBe(30_000);
    expect(events).toEqual([]);
  });

  test("end with the run", async () => {
    const { clock, beats, claim, add, leaseLeft } = bench();
    const end = add(await claim("a"));
    end();
    await clock.advance(30_000);
    expect(beats).toEqual([]);
    expect(await leaseLeft("a")).toBe(0);
  });

  test("do not reach transactions, whose session stands behind them", async () => {
    const { clock, beats, claim, add } = bench();
    add(await claim("a", "transaction"), "transaction");
    await clock.advance(30_000);
    expect(beats).toEqual([]);
  });

  test("are not sent any more for a run that takes longer than its route allows, and that is told once", async () => {
    const { clock, beats, events, claim, add, leaseLeft } = bench();
    add(await claim("a"), "at_most_once", 25_000);
    await clock.advance(20_000);
    expect(beats).toEqual([["a"], ["a"]]);
    await clock.advance(40_000);
    expect(beats).toHaveLength(2);
    expect(events).toEqual([{ type: "overrun" }]);
    expect(await leaseLeft("a")).toBe(-10_000);
  });

  test("go in parts of a thousand claims", async () => {
    const { clock, beats, claim, add } = bench();
    for (let index = 0; index < 1_001; index += 1) add(await claim(`k${index}`));
    await clock.advance(10_000);
    expect(beats.map((part) => part.length)).toEqual([1_000, 1]);
  });

  test("tell which claims were lost", async () => {
    const { clock, memory, events, claim, add } = bench();
    const lost = await claim("a");
    add(lost, "rerun");
    add(await claim("b"));
    await memory.release(lost);
    await clock.advance(10_000);
    expect(events).toEqual([]);
    await clock.advance(10_000);
    expect(events).toEqual([{ type: "lost", guarantee: "rerun" }]);
  });

  test("do not tell of one that is completed and has not heard of it", async () => {
    const { clock, memory, events, claim, add } = bench();
    const held = await claim("a");
    const end = add(held);
    await memory.release(held);
    await clock.advance(10_000);
    end();
    // The same key again, by the same claim id: what was suspected of the first run says nothing of this one.
    add(held);
    await clock.advance(10_000);
    expect(events).toEqual([]);
  });

  test("do not tell of one that ended while the beat was under way", async () => {
    const { clock, events, claim, add, useHeartbeat } = bench();
    let answer: (lost: readonly string[]) => void = () => undefined;
    useHeartbeat(() => new Promise((resolve) => (answer = resolve)));
    const held = await claim("a");
    const end = add(held);
    await clock.advance(10_000);
    end();
    answer([held.claimId]);
    await settled();
    expect(events).toEqual([]);
  });

  test("that hang are not joined by others", async () => {
    const { clock, beats, claim, add, useHeartbeat } = bench();
    let answer: (lost: readonly string[]) => void = () => undefined;
    useHeartbeat(() => new Promise((resolve) => (answer = resolve)));
    add(await claim("a"));
    await clock.advance(30_000);
    expect(beats).toHaveLength(1);
    answer([]);
    await clock.advance(10_000);
    expect(beats).toHaveLength(2);
  });

  test("that fail are told and tried again", async () => {
    const { clock, beats, events, claim, add, useHeartbeat } = bench();
    const error = new Error("connection reset");
    useHeartbeat(() => Promise.reject(error));
    add(await claim("a"));
    await clock.advance(20_000);
    expect(beats).toHaveLength(2);
    const told = { type: "store_error", during: "heartbeat", error };
    expect(events).toEqual([told, told]);
  });

  test("stop when the register does", async () => {
    const { clock, beats, register, claim, add } = bench();
    add(await claim("a"));
    register.stop();
    await clock.advance(30_000);
    expect(beats).toEqual([]);
    expect(clock.waiting()).toBe(0);
  });
});

describe("what runs here", () => {
  test("is told of once, when whoever holds it has ended it and it runs no more", async () => {
    const { clock, register, claim, add, ended } = bench();
    const [first, second] = [await claim("a"), await claim("b")];
    const endFirst = add(first);
    add(second, "at_most_once", 5_000);
    // The second is renewed no more, and its end is nobody's word.
    await clock.advance(heartbeatMs);
    expect(ended).toEqual([]);
    endFirst();
    expect(ended).toEqual([first]);
    expect(register.running(first)).toBeUndefined();
  });

  test("is found by scope and key, from its beginning to its end", async () => {
    const { register, claim, add } = bench();
    const held = await claim("a");
    const end = add(held);
    expect(register.running({ scope: "acme", key: "a" })?.claim).toEqual(held);
    expect(register.running({ scope: "acm", key: "ea" })).toBeUndefined();
    end();
    expect(register.running(held)).toBeUndefined();
  });

  test("is not ended by the end of an older run of the key", async () => {
    const { register, claim, memory, add } = bench();
    const first = await claim("a");
    const endFirst = add(first);
    await memory.release(first);
    const second = await claim("a");
    add(second);
    endFirst();
    expect(register.running(second)?.claim).toEqual(second);
  });
});

describe("a run that takes longer than its route allows", () => {
  test("is held and waited for no longer", async () => {
    const { clock, register, claim, add } = bench();
    const held = await claim("a");
    const end = add(held, "at_most_once", 15_000);
    const drained = register.drain(60_000);
    await clock.advance(10_000);
    expect(register.running(held)?.claim).toEqual(held);
    await clock.advance(10_000);
    expect(register.running(held)).toBeUndefined();
    expect(await Promise.race([drained, settled().then(() => "still waiting")])).toBe(0);
    end();
    expect(await register.drain(1_000)).toBe(0);
  });

  test("is held no longer where its claim was lost before", async () => {
    const { clock, memory, events, register, claim, add } = bench();
    const held = await claim("a");
    add(held, "rerun", 25_000);
    await memory.release(held);
    await clock.advance(20_000);
    expect(events).toEqual([{ type: "lost", guarantee: "rerun" }]);
    const drained = register.drain(60_000);
    await clock.advance(10_000);
    expect(await Promise.race([drained, settled().then(() => "still waiting")])).toBe(0);
    expect(events).toHaveLength(1);
  });

  test("does not end a later run of the key when it ends at last", async () => {
    const { clock, memory, register, claim, add } = bench();
    const first = await claim("a");
    const endFirst = add(first, "rerun", 5_000);
    await clock.advance(10_000);
    await memory.release(first);
    const second = await claim("a");
    add(second);
    endFirst();
    expect(register.running(second)?.claim).toEqual(second);
  });
});

describe("a claim under way", () => {
  test("is waited for, and with it the run that it begins", async () => {
    const { register, claim, add } = bench();
    let answer: () => void = () => undefined;
    const asked = new Promise<void>((resolve) => (answer = resolve));
    const began = register.expect(asked.then(async () => add(await claim("a"))));
    let isDrained = false;
    const drained = register.drain(60_000).then(() => (isDrained = true));
    await settled();
    expect(isDrained).toBe(false);
    answer();
    const end = await began;
    await settled();
    expect(isDrained).toBe(false);
    end();
    await drained;
  });

  test.each([
    ["is refused", () => Promise.resolve()],
    ["fails", () => Promise.reject(new Error("never"))],
  ])("that %s is waited for no longer", async (_how, begin) => {
    const { register } = bench();
    await register.expect(begin()).catch(() => undefined);
    expect(await register.drain(0)).toBe(0);
    expect(await Promise.race([register.drain(60_000), settled().then(() => "waiting")])).toBe(0);
  });
});

describe("draining", () => {
  test("is over at once where nothing runs", async () => {
    expect(await bench().register.drain(1_000)).toBe(0);
  });

  test("waits for everything, also for what was begun meanwhile", async () => {
    const { register, claim, add } = bench();
    const endFirst = add(await claim("a"));
    const drained = register.drain(60_000);
    const endSecond = add(await claim("b"));
    endFirst();
    await settled();
    await expect(Promise.race([drained, Promise.resolve("still waiting")])).resolves.toBe(
      "still waiting",
    );
    endSecond();
    expect(await drained).toBe(0);
  });

  test("ends when its time does and says how many are left; they are still kept alive", async () => {
    const { clock, register, claim, add, leaseLeft } = bench();
    add(await claim("a"));
    const drained = register.drain(25_000);
    await clock.advance(25_000);
    expect(await drained).toBe(1);
    expect(await leaseLeft("a")).toBe(25_000);
  });
});
