import * as fc from "fast-check";

import { createCircuitBreaker, type Pass } from "../../src/stores/circuit-breaker.js";

function open(failuresToOpen = 3, pauseMs = 1_000) {
  const time = { nowMs: 0 };
  const monotonicMs = () => time.nowMs;
  const breaker = createCircuitBreaker({ failuresToOpen, pauseMs, monotonicMs });
  const fail = () => breaker.report(breaker.enter() as Pass, "failed");
  const succeed = () => breaker.report(breaker.enter() as Pass, "ok");
  return { time, breaker, fail, succeed };
}

test("opens after so many failures in a row, and not before", () => {
  const { breaker, fail, succeed } = open();
  fail();
  fail();
  succeed();
  fail();
  fail();
  expect(breaker.state()).toBe("closed");
  fail();
  expect(breaker.state()).toBe("open");
  expect(breaker.enter()).toBeUndefined();
});

test("lets one probe through after the pause, which closes it", () => {
  const { time, breaker, fail } = open();
  for (let count = 0; count < 3; count += 1) fail();
  time.nowMs = 999;
  expect(breaker.enter()).toBeUndefined();
  time.nowMs = 1_000;
  const probe = breaker.enter() as Pass;
  expect(probe.probe).toBe(true);
  expect(breaker.state()).toBe("half_open");
  expect(breaker.enter()).toBeUndefined();
  breaker.report(probe, "ok");
  expect(breaker.state()).toBe("closed");
  expect(breaker.enter()?.probe).toBe(false);
});

test("pauses again after a failed probe", () => {
  const { time, breaker, fail } = open();
  for (let count = 0; count < 3; count += 1) fail();
  time.nowMs = 1_000;
  breaker.report(breaker.enter() as Pass, "failed");
  expect(breaker.state()).toBe("open");
  time.nowMs = 1_999;
  expect(breaker.enter()).toBeUndefined();
  time.nowMs = 2_000;
  expect(breaker.enter()?.probe).toBe(true);
});

test("outcomes of work begun before a change say nothing after it", () => {
  const { time, breaker, fail } = open();
  const slow = breaker.enter() as Pass;
  const slower = breaker.enter() as Pass;
  for (let count = 0; count < 3; count += 1) fail();
  breaker.report(slow, "ok");
  expect(breaker.state()).toBe("open");
  time.nowMs = 1_000;
  const probe = breaker.enter() as Pass;
  breaker.report(slower, "failed");
  expect(breaker.state()).toBe("half_open");
  breaker.report(probe, "ok");
  breaker.report(probe, "failed");
  expect(breaker.state()).toBe("closed");
});

test("whatever happens, work that all fails costs at most the limit and one probe a pause", () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 8 }),
      fc.array(fc.integer({ min: 0, max: 700 }), { minLength: 1, maxLength: 200 }),
      (failuresToOpen, stepsMs) => {
        const { time, breaker } = open(failuresToOpen);
        let admitted = 0;
        for (const stepMs of stepsMs) {
          time.nowMs += stepMs;
          const pass = breaker.enter();
          if (pass === undefined) continue;
          admitted += 1;
          breaker.report(pass, "failed");
        }
        expect(admitted).toBeLessThanOrEqual(failuresToOpen + time.nowMs / 1_000);
      },
    ),
    { seed: 20_240_501, numRuns: 200 },
  );
});
