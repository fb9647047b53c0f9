/**
 * The store contract: who gets a key, keeps it, and loses it.
 */
import assert from "node:assert/strict";
import { systemClock } from "../../core/clock.js";
import type { Claim, StoredResponse } from "../../core/record.js";
import {
  assertResponse,
  claimed,
  complete,
  completion,
  existing,
  hello,
  leaseMs,
  newRef,
  newRequest,
  seen,
  settled,
} from "./bench.js";
import type { Cases } from "./bench.js";

export const claimCases: Cases = {
  "gives a key to one of 50 claimers at once": async ({ store, second, ref }) => {
    const requests = Array.from({ length: 50 }, () => newRequest(ref));
    const answers = await Promise.all(
      requests.map((request, index) => (index % 2 === 0 ? store : second).claim(request)),
    );
    const winners = answers.filter((answer) => answer.kind === "claimed");
    assert.equal(winners.length, 1);
    for (const answer of answers) {
      if (answer.kind === "exists") assert.equal(answer.record.claimId, winners[0]?.claim.claimId);
    }
    assert.equal((await second.find(ref))?.record.token, winners[0]?.claim.token);
  },

  "claims many keys at once": async ({ store, second, ref }) => {
    const refs = Array.from({ length: 100 }, (_, index) => ({
      ...ref,
      key: `${ref.key}-${index}`,
    }));
    const claims = await Promise.all(refs.map((each) => claimed(store.claim(newRequest(each)))));
    assert.equal(new Set(claims.map((claim) => claim.token)).size, 100);
    const bodies = refs.map((each) => ({ ...hello, body: Buffer.from(each.key) }));
    await Promise.all(
      claims.map((claim, index) => complete(store, claim, bodies[index] as StoredResponse)),
    );
    const found = await Promise.all(refs.map((each) => second.find(each)));
    found.forEach((each, index) =>
      assertResponse(each?.record.response, bodies[index] as StoredResponse),
    );
  },

  "finds its own claim when the reply to it was lost": async ({ store, ref }) => {
    const request = newRequest(ref);
    const claim = await claimed(store.claim(request));
    const answer = await store.claim(request);
    assert.equal(answer.kind, "exists");
    assert.equal(answer.kind === "exists" && answer.record.state, "running");
    assert.equal(answer.kind === "exists" && answer.record.claimId, request.claimId);
    assert.equal(answer.kind === "exists" && answer.record.token, claim.token);
    await complete(store, claim, hello);
  },

  "lets nobody take over while the lease holds": async ({ store, second, advance, ref }) => {
    const claim = await claimed(store.claim(newRequest(ref)));
    await advance(leaseMs - 10_000);
    const observed = await existing(second, ref);
    assert.ok((observed.record.leaseUntilMs ?? 0) > observed.nowMs);
    assert.notEqual((await second.takeOver(newRequest(ref), observed.record)).kind, "claimed");
    await complete(store, claim, hello);
  },

  "renews leases, and names the claims that are lost": async ({ store, second, advance, ref }) => {
    const claim = await claimed(store.claim(newRequest(ref)));
    const other = await claimed(store.claim(newRequest(newRef())));
    const foreign = { ...claim, claimId: systemClock.uuid() };
    const stale = { ...other, token: other.token + 1, claimId: systemClock.uuid() };
    await advance(leaseMs + 1_000);
    const lost = await store.heartbeat([claim, foreign, stale], leaseMs);
    assert.deepEqual([...lost].sort(), [foreign.claimId, stale.claimId].sort());
    assert.deepEqual(await store.heartbeat([], leaseMs), []);
    const observed = await existing(second, ref);
    assert.ok((observed.record.leaseUntilMs ?? 0) > observed.nowMs);
    assert.notEqual((await second.takeOver(newRequest(ref), observed.record)).kind, "claimed");
    await complete(store, claim, hello);
    assert.deepEqual(await store.heartbeat([claim], leaseMs), [claim.claimId]);
  },

  "gives an abandoned key to one of many takers": async ({ store, second, advance, ref }) => {
    const first = newRequest(ref, { requestId: "req_first", guarantee: "rerun" });
    const claim = await claimed(store.claim(first));
    await advance(leaseMs + 1_000);
    const observed = await existing(store, ref);
    assert.ok((observed.record.leaseUntilMs ?? Infinity) <= observed.nowMs);
    const requests = Array.from({ length: 20 }, () =>
      newRequest(ref, { requestId: "req_other", guarantee: "steps" }),
    );
    const answers = await Promise.all(
      requests.map((request, index) =>
        (index % 2 === 0 ? store : second).takeOver(request, observed.record),
      ),
    );
    const winners = answers
      .filter((answer) => answer.kind === "claimed")
      .map((answer) => answer.claim);
    assert.equal(winners.length, 1);
    const taken = winners[0] as Claim;
    assert.ok(taken.token > claim.token);
    assert.equal(taken.attempt, 2);
    const { record } = await existing(second, ref);
    assert.equal(record.claimId, taken.claimId);
    // The promise under which the work was begun, and the name of its first execution, outlive the first process.
    assert.equal(record.guarantee, "rerun");
    assert.equal(record.requestId, "req_first");
  },

  "takes over only what is still as it was observed": async ({ store, second, advance, ref }) => {
    await claimed(store.claim(newRequest(ref)));
    await advance(leaseMs + 1_000);
    const { record: observed } = await existing(store, ref);
    const taken = await claimed(second.takeOver(newRequest(ref), observed));
    await advance(leaseMs + 1_000);
    // Abandoned again, and by somebody else: what was decided about the first one is no decision about this one.
    const answer = await store.takeOver(newRequest(ref), observed);
    assert.equal(answer.kind, "exists");
    assert.equal(answer.kind === "exists" && answer.record.token, taken.token);
    const { record } = await existing(store, ref);
    assert.ok((await claimed(store.takeOver(newRequest(ref), record))).token > taken.token);
  },

  "lets no old claim write after a take-over": async ({ store, second, advance, ref }) => {
    const old = await claimed(store.claim(newRequest(ref)));
    await advance(leaseMs + 1_000);
    const taken = await claimed(
      second.takeOver(newRequest(ref), (await existing(second, ref)).record),
    );
    const forged: Claim[] = [
      old,
      { ...taken, token: old.token },
      { ...taken, claimId: old.claimId },
    ];
    for (const claim of forged) {
      assert.equal(
        (await store.complete(claim, completion({ ...hello, status: 500 }))).kind,
        "lost",
      );
      assert.equal(await store.markNotStored(claim), "lost");
      assert.equal(await store.release(claim), "lost");
      assert.deepEqual(await store.heartbeat([claim], leaseMs), [claim.claimId]);
    }
    const { record } = await existing(store, ref);
    assert.deepEqual(
      [record.state, record.token, record.notStored],
      ["running", taken.token, false],
    );
    await complete(second, taken, hello);
    assert.equal((await store.complete(old, completion({ ...hello, status: 500 }))).kind, "lost");
    assertResponse((await store.find(ref))?.record.response, hello);
  },

  "frees a key on release, once": async ({ store, ref }) => {
    const claim = await claimed(store.claim(newRequest(ref)));
    assert.equal(await store.release(claim), "ok");
    assert.equal(await store.release(claim), "lost");
    assert.equal(await store.find(ref), undefined);
    const again = await claimed(settled(store, newRequest(ref)));
    assert.ok(again.token > claim.token);
    assert.equal(again.attempt, 1);
    assert.equal(await store.release(claim), "lost");
    assert.equal((await store.complete(claim, completion(hello))).kind, "lost");
    await complete(store, again, hello);
  },

  "releases no completed key": async ({ store, ref }) => {
    const claim = await claimed(store.claim(newRequest(ref)));
    await complete(store, claim, hello);
    assert.equal(await store.release(claim), "lost");
    assertResponse((await store.find(ref))?.record.response, hello);
  },

  "mixes no two keys": async ({ store, second }) => {
    const tail = systemClock.uuid();
    const pairs = [
      ["a", `b:${tail}`],
      ["a:b", tail],
      ["a:b:", tail],
      ["1:a", `b:${tail}`],
      ["a", `B:${tail}`],
      [`{a}`, `{b}"'\\;--$1 %_ ${tail}`],
      [`\u00e4\u{1f600}`, tail],
      [`a\u0308\u{1f600}`, tail],
      ["a'; drop table x; --", tail],
      ["x".repeat(255), tail],
    ] as const;
    const requests = pairs.map(([scope, key]) => newRequest({ scope, key }));
    const claims = await Promise.all(requests.map((request) => claimed(store.claim(request))));
    await Promise.all(
      claims.map((claim, index) =>
        complete(store, claim, { ...hello, body: Buffer.from([index]) }),
      ),
    );
    for (const [index, [scope, key]] of pairs.entries()) {
      const { record } = await seen(second, newRequest({ scope, key }));
      assert.deepEqual([record.scope, record.key, record.response?.body[0]], [scope, key, index]);
    }
  },

  "answers nothing for a key that was never sent": async ({ store, ref }) => {
    await store.check();
    assert.equal(await store.find(ref), undefined);
  },
};
