import fc from "fast-check";

import { decide, differingFields } from "../../src/core/decide.js";
import type { Decision, FingerprintComparison } from "../../src/core/decide.js";
import type { Guarantee, KeyRecord, KeyState } from "../../src/core/record.js";

const states: readonly KeyState[] = ["running", "completed", "parked", "forgotten"];
const guarantees: readonly Guarantee[] = ["at_most_once", "rerun", "transaction", "steps"];
const comparisons: readonly FingerprintComparison[] = ["same", "other", "unknown_secret"];

const nowMs = 1_000_000;
const past = nowMs - 1;
const future = nowMs + 1;

const response = { status: 201, headers: [], body: Buffer.from("{}") };

/** A record as the constraints of the table allow it. */
function recordOf(state: KeyState, changes: Partial<KeyRecord> = {}): KeyRecord {
  const finished = state === "completed" || state === "forgotten";
  return {
    scope: "acme",
    key: "order-1",
    state,
    claimId: "holder",
    token: 7,
    attempt: 1,
    guarantee: "at_most_once",
    fingerprint: "v1::abc",
    fieldHashes: "{}",
    method: "POST",
    path: "/orders",
    requestId: "req_1",
    leaseUntilMs: state === "running" ? future : undefined,
    nextAttemptMs: state === "parked" ? past : undefined,
    notStored: false,
    response: state === "completed" ? response : undefined,
    replayUntilMs: finished ? future : undefined,
    dedupeUntilMs: finished ? future + 1 : undefined,
    ...changes,
  };
}

function decideFor(
  record: KeyRecord,
  comparison: FingerprintComparison = "same",
  asked: { claimId?: string; guarantee?: Guarantee } = {},
): Decision {
  const { claimId = "asker", guarantee = record.guarantee } = asked;
  return decide(record, { claimId, guarantee, comparison }, nowMs);
}

const replay: Decision = { kind: "replay" };
const run: Decision = { kind: "run" };
const abandoned: Decision = { kind: "take_over", because: "abandoned" };
const expired: Decision = { kind: "take_over", because: "expired" };
const refuse = (code: Extract<Decision, { kind: "refuse" }>["code"]): Decision => ({
  kind: "refuse",
  code,
});

describe("the same request meets", () => {
  const leaseOver = { leaseUntilMs: past };
  test.each<[string, KeyRecord, Decision]>([
    ["a completed key", recordOf("completed"), replay],
    [
      "one whose replay window ends now",
      recordOf("completed", { replayUntilMs: nowMs }),
      refuse("key_expired"),
    ],
    [
      "one whose replay window is over",
      recordOf("completed", { replayUntilMs: past }),
      refuse("key_expired"),
    ],
    ["one whose dedupe window ends now", recordOf("completed", { dedupeUntilMs: nowMs }), expired],
    [
      "one that could not be stored",
      recordOf("completed", { notStored: true, response: undefined }),
      refuse("response_not_stored"),
    ],
    [
      "such a one after the replay window",
      recordOf("completed", { notStored: true, replayUntilMs: past }),
      refuse("response_not_stored"),
    ],
    ["a forgotten key", recordOf("forgotten", { replayUntilMs: past }), refuse("key_expired")],
    ["one forgotten before its time", recordOf("forgotten"), refuse("key_expired")],
    ["one that nothing remembers", recordOf("forgotten", { dedupeUntilMs: past }), expired],
    ["a running key", recordOf("running"), refuse("in_progress")],
    [
      "a running key of a rerun route",
      recordOf("running", { guarantee: "rerun" }),
      refuse("in_progress"),
    ],
    ["an abandoned plain key", recordOf("running", leaseOver), refuse("outcome_unknown")],
    [
      "one whose lease ends now",
      recordOf("running", { leaseUntilMs: nowMs }),
      refuse("outcome_unknown"),
    ],
    [
      "an abandoned rerun key",
      recordOf("running", { ...leaseOver, guarantee: "rerun" }),
      abandoned,
    ],
    [
      "one of which bytes may have left",
      recordOf("running", { ...leaseOver, guarantee: "rerun", notStored: true }),
      refuse("outcome_unknown"),
    ],
    ["abandoned steps", recordOf("running", { ...leaseOver, guarantee: "steps" }), abandoned],
    [
      "a transaction that somebody committed",
      recordOf("running", { ...leaseOver, guarantee: "transaction" }),
      refuse("outcome_unknown"),
    ],
    ["parked steps", recordOf("parked", { guarantee: "steps" }), abandoned],
    [
      "parked steps that are not due",
      recordOf("parked", { guarantee: "steps", nextAttemptMs: future }),
      abandoned,
    ],
    [
      "steps that were set aside",
      recordOf("parked", { guarantee: "steps", nextAttemptMs: undefined }),
      refuse("outcome_unknown"),
    ],
  ])("%s", (_name, record, expected) => {
    expect(decideFor(record)).toEqual(expected);
  });

  test("its own claim, whose reply was lost, and runs", () => {
    const own = { claimId: "holder" };
    expect(decideFor(recordOf("running"), "same", own)).toEqual(run);
    expect(decideFor(recordOf("running", { leaseUntilMs: past }), "same", own)).toEqual(run);
    // Found completed under its own claim: the first reply to the completion was lost.
    expect(decideFor(recordOf("completed"), "same", own)).toEqual(replay);
  });
});

describe("another request meets", () => {
  test.each(states)("a %s key and is told of the mismatch before anything else", (state) => {
    const record = recordOf(state, { guarantee: state === "parked" ? "steps" : "rerun" });
    expect(decideFor(record, "other")).toEqual(refuse("key_reused"));
    const old = { ...record, leaseUntilMs: past, replayUntilMs: past };
    expect(decideFor(old, "other")).toEqual(refuse("key_reused"));
  });

  test("a key after its dedupe window and claims it", () => {
    expect(decideFor(recordOf("completed", { dedupeUntilMs: past }), "other")).toEqual(expired);
    expect(decideFor(recordOf("forgotten", { dedupeUntilMs: past }), "other")).toEqual(expired);
  });
});

test.each(states)(
  "a %s key under an unknown secret is no mismatch and nothing to act on",
  (state) => {
    expect(decideFor(recordOf(state), "unknown_secret")).toEqual(refuse("store_unavailable"));
  },
);

describe("work that a route of another kind left behind", () => {
  test.each<[Guarantee, Guarantee, Decision]>([
    ["rerun", "rerun", abandoned],
    ["rerun", "at_most_once", abandoned],
    ["rerun", "transaction", refuse("outcome_unknown")],
    ["rerun", "steps", refuse("outcome_unknown")],
    ["steps", "steps", abandoned],
    ["steps", "rerun", refuse("outcome_unknown")],
    ["at_most_once", "rerun", refuse("outcome_unknown")],
    ["transaction", "transaction", refuse("outcome_unknown")],
  ])("begun as %s, asked for as %s", (guarantee, asked, expected) => {
    const record = recordOf("running", { guarantee, leaseUntilMs: past });
    expect(decideFor(record, "same", { guarantee: asked })).toEqual(expected);
  });
});

describe("whatever a record says", () => {
  const time = fc.constantFrom(past, nowMs, future, 0, Number.MAX_SAFE_INTEGER);
  const maybeTime = fc.option(time, { nil: undefined });
  /** Also records that no store should hold: the function is total. */
  const anyRecord = fc
    .record({
      state: fc.constantFrom(...states),
      claimId: fc.constantFrom("holder", "asker"),
      guarantee: fc.constantFrom(...guarantees),
      leaseUntilMs: maybeTime,
      nextAttemptMs: maybeTime,
      notStored: fc.boolean(),
      replayUntilMs: maybeTime,
      dedupeUntilMs: maybeTime,
    })
    .map(({ state, ...rest }) => recordOf(state, rest));
  const anyAsk = fc.record({
    claimId: fc.constant("asker"),
    guarantee: fc.constantFrom(...guarantees),
    comparison: fc.constantFrom(...comparisons),
  });
  /** True of every decision, whatever was held and asked. */
  const everyDecision = (
    claim: (record: KeyRecord, comparison: FingerprintComparison, decision: Decision) => boolean,
  ): void => {
    fc.assert(
      fc.property(anyRecord, anyAsk, (record, asked) =>
        claim(record, asked.comparison, decide(record, asked, nowMs)),
      ),
      { numRuns: 5_000 },
    );
  };
  const isRemembered = ({ dedupeUntilMs }: KeyRecord): boolean =>
    dedupeUntilMs === undefined || dedupeUntilMs > nowMs;
  const isBefore = (untilMs: number | undefined): boolean =>
    untilMs === undefined || untilMs > nowMs;

  test.each<[string, Parameters<typeof everyDecision>[0]]>([
    [
      "there is one decision",
      (_record, _comparison, { kind }) => ["run", "replay", "refuse", "take_over"].includes(kind),
    ],
    [
      "nothing is replayed to another request, after its window, or that was not stored",
      (record, comparison, { kind }) =>
        kind !== "replay" ||
        (record.state === "completed" &&
          comparison === "same" &&
          !record.notStored &&
          isBefore(record.replayUntilMs)),
    ],
    [
      "nobody takes over a remembered key with another or an unknown request",
      (record, comparison, { kind }) =>
        kind !== "take_over" || !isRemembered(record) || comparison === "same",
    ],
    [
      "no completed, forgotten or living work is run again while it is remembered",
      (record, _comparison, decision) =>
        decision.kind !== "take_over" ||
        !isRemembered(record) ||
        (decision.because === "abandoned" &&
          (record.state === "parked" ||
            (record.state === "running" && !isBefore(record.leaseUntilMs)))),
    ],
    [
      "and none whose guarantee forbids it, or of which bytes may have left",
      (record, _comparison, { kind }) =>
        kind !== "take_over" ||
        !isRemembered(record) ||
        (["rerun", "steps"].includes(record.guarantee) && !record.notStored),
    ],
    [
      "a claim runs for its own claimer alone",
      (record, _comparison, { kind }) =>
        kind !== "run" || (record.state === "running" && record.claimId === "asker"),
    ],
    [
      "a mismatch is said of a remembered key with another fingerprint alone",
      (record, comparison, decision) =>
        decision.kind !== "refuse" ||
        decision.code !== "key_reused" ||
        (comparison === "other" && isRemembered(record)),
    ],
  ])("%s", (_name, claim) => {
    expect(() => everyDecision(claim)).not.toThrow();
  });

  test("a word that is not known is an error and not a guess", () => {
    const record = recordOf("running", { leaseUntilMs: past });
    expect(() => decideFor({ ...record, state: "paused" as KeyState })).toThrow(
      new TypeError("unknown word in a record: paused"),
    );
    expect(() => decideFor({ ...record, guarantee: "maybe" as Guarantee })).toThrow(
      new TypeError("unknown word in a record: maybe"),
    );
  });
});

describe("differing fields", () => {
  test("are sorted, named once, and counted on both sides", () => {
    const stored = '{"path":"1","body.b":"1","body.a":"1","body.gone":"1"}';
    const asked = '{"path":"1","body.b":"2","body.a":"2","body.new":"1"}';
    expect(differingFields(stored, asked)).toEqual(["body.a", "body.b", "body.gone", "body.new"]);
    expect(differingFields(stored, stored)).toEqual([]);
  });

  test("are at most 20", () => {
    const fields = Array.from({ length: 30 }, (_, index) => [`f${index}`, "1"]);
    const many = JSON.stringify(Object.fromEntries(fields));
    expect(differingFields(many, "{}")).toHaveLength(20);
    expect(differingFields(many, "{}", 3)).toEqual(["f0", "f1", "f10"]);
  });
});
