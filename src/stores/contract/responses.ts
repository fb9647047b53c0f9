/**
 * The store contract: what is stored of a response, and for how long.
 */
import assert from "node:assert/strict";
import type { StoredResponse } from "../../core/record.js";
import {
  assertFields,
  assertResponse,
  claimed,
  complete,
  completion,
  dedupeWindowMs,
  existing,
  hello,
  leaseMs,
  newRef,
  newFingerprint,
  newRequest,
  reapAll,
  replayWindowMs,
  seen,
  settled,
} from "./bench.js";
import type { Cases } from "./bench.js";

export const responseCases: Cases = {
  "replays what was completed, with the fingerprint of its request": async ({
    store,
    second,
    ref,
  }) => {
    const request = newRequest(ref, {
      method: "PATCH",
      path: "/a?b=c",
      guarantee: "rerun",
      requestId: "req_1",
    });
    const claim = await claimed(store.claim(request));
    assert.equal(claim.claimId, request.claimId);
    assert.equal(claim.attempt, 1);
    const answer = await store.complete(claim, completion(hello));
    assert.equal(answer.kind, "ok");
    for (const reader of [store, second]) {
      const { record, nowMs } = await seen(reader, newRequest(ref));
      const { response, replayUntilMs, dedupeUntilMs } = record;
      assertFields(record, {
        ...ref,
        state: "completed",
        claimId: request.claimId,
        token: claim.token,
        attempt: 1,
        guarantee: "rerun",
        fingerprint: request.fingerprint.text,
        fieldHashes: request.fingerprint.fieldHashes,
        method: "PATCH",
        path: "/a?b=c",
        requestId: "req_1",
        leaseUntilMs: undefined,
        nextAttemptMs: undefined,
        notStored: false,
      });
      assertResponse(response, hello);
      assert.equal(replayUntilMs, answer.kind === "ok" ? answer.replayUntilMs : undefined);
      assert.equal((dedupeUntilMs ?? 0) - (replayUntilMs ?? 0), dedupeWindowMs - replayWindowMs);
      assert.ok((replayUntilMs ?? 0) > nowMs && (replayUntilMs ?? 0) <= nowMs + replayWindowMs);
    }
  },

  "keeps bodies and headers byte for byte": async ({ store, second }) => {
    const everyByte = Buffer.from(Array.from({ length: 1_024 }, (_, index) => index % 256));
    const responses: StoredResponse[] = [
      { status: 204, headers: [], body: Buffer.alloc(0) },
      { status: 200, headers: [["Content-Type", "application/octet-stream"]], body: everyByte },
      { status: 200, headers: [], body: Buffer.alloc(1_048_576, everyByte) },
      {
        status: 599,
        statusMessage: "Odd \u00fc",
        headers: [
          ["LINK", ["<a>; rel=x", "<b>"]],
          ["x-line", "a\tb"],
          ["X-Empty", ""],
          ["Link", "<c>"],
        ],
        removedHeaders: ["x-powered-by"],
        body: Buffer.from('{"a":"\\u0000\n\u{1f600}"}\n\n'),
      },
    ];
    for (const response of responses) {
      const ref = newRef();
      await complete(store, await claimed(store.claim(newRequest(ref))), response);
      for (const reader of [store, second])
        assertResponse((await seen(reader, newRequest(ref))).record.response, response);
      assertResponse((await second.find(ref))?.record.response, response);
    }
  },

  "keeps what was completed when the writer's bytes change later": async ({ store, ref }) => {
    const body = Buffer.from("before");
    await complete(store, await claimed(store.claim(newRequest(ref))), { ...hello, body });
    body.write("after!");
    assertResponse((await seen(store, newRequest(ref))).record.response, {
      ...hello,
      body: Buffer.from("before"),
    });
  },

  "completes again with the first answer when the reply was lost": async ({
    store,
    second,
    advance,
    ref,
  }) => {
    const claim = await claimed(store.claim(newRequest(ref)));
    const first = await store.complete(claim, completion(hello));
    await advance(5_000);
    assert.deepEqual(await store.complete(claim, completion({ ...hello, status: 500 })), first);
    assert.deepEqual(await second.complete(claim, completion({ ...hello, status: 500 })), first);
    assertResponse((await store.find(ref))?.record.response, hello);
  },

  "completes late while nobody took over": async ({ store, advance, ref }) => {
    const claim = await claimed(store.claim(newRequest(ref)));
    await advance(leaseMs * 10);
    await complete(store, claim, hello);
    assertResponse((await store.find(ref))?.record.response, hello);
  },

  "remembers that a response was not stored": async ({ store, second, ref }) => {
    const claim = await claimed(store.claim(newRequest(ref)));
    assert.equal(await store.markNotStored(claim), "ok");
    assert.equal((await existing(second, ref)).record.notStored, true);
    assert.equal((await store.complete(claim, completion("not_stored"))).kind, "ok");
    for (const reader of [store, second]) {
      const { record } = await seen(reader, newRequest(ref));
      assert.deepEqual(
        [record.state, record.notStored, record.response],
        ["completed", true, undefined],
      );
    }
    assert.equal(await store.markNotStored(claim), "lost");
  },

  "replays through the replay window and remembers through the dedupe window": async (bench) => {
    const { store, second, advance, ref } = bench;
    const claim = await claimed(store.claim(newRequest(ref)));
    await complete(store, claim, hello);
    await advance(replayWindowMs - 60_000);
    const replayed = await seen(second, newRequest(ref));
    assert.ok((replayed.record.replayUntilMs ?? 0) > replayed.nowMs);
    await advance(120_000);
    const expired = await seen(second, newRequest(ref));
    assert.ok((expired.record.replayUntilMs ?? Infinity) <= expired.nowMs);
    assert.ok((expired.record.dedupeUntilMs ?? 0) > expired.nowMs);
    assert.notEqual((await second.takeOver(newRequest(ref), expired.record)).kind, "claimed");
    await advance(dedupeWindowMs - replayWindowMs);
    const over = await seen(second, newRequest(ref));
    assert.ok((over.record.dedupeUntilMs ?? Infinity) <= over.nowMs);
    const request = newRequest(ref, {
      requestId: "req_new",
      guarantee: "rerun",
      fingerprint: newFingerprint("v1::new"),
    });
    const again = await claimed(second.takeOver(request, over.record));
    assert.ok(again.token > claim.token);
    assert.equal(again.attempt, 1);
    const { record } = await existing(store, ref);
    assert.deepEqual(
      [record.state, record.response, record.replayUntilMs],
      ["running", undefined, undefined],
    );
    assert.deepEqual(
      [record.requestId, record.guarantee, record.fingerprint],
      ["req_new", "rerun", "v1::new"],
    );
    assert.equal((await store.complete(claim, completion(hello))).kind, "lost");
    await complete(second, again, { ...hello, status: 202 });
    assert.equal((await seen(store, newRequest(ref))).record.response?.status, 202);
  },

  "reaps responses, then keys, and nothing that runs": async ({ store, second, advance, ref }) => {
    const running = newRef();
    await claimed(store.claim(newRequest(running)));
    const claim = await claimed(store.claim(newRequest(ref)));
    await complete(store, claim, hello);
    await reapAll(store);
    assertResponse((await store.find(ref))?.record.response, hello);
    await advance(replayWindowMs + 1_000);
    await reapAll(second);
    const { record } = await existing(store, ref);
    assert.deepEqual(
      [record.state, record.response, record.token],
      ["forgotten", undefined, claim.token],
    );
    assert.equal(await store.release(claim), "lost");
    assert.notEqual((await store.takeOver(newRequest(ref), record)).kind, "claimed");
    await advance(dedupeWindowMs - replayWindowMs);
    await reapAll(second);
    assert.equal(await store.find(ref), undefined);
    assert.equal((await existing(store, running)).record.state, "running");
    assert.ok((await claimed(settled(second, newRequest(ref)))).token > claim.token);
  },

  "reaps no more than it is told": async ({ store, advance, ref }) => {
    for (const key of ["a", "b", "c"]) {
      await complete(store, await claimed(store.claim(newRequest({ ...ref, key }))), hello);
    }
    await advance(dedupeWindowMs + 1_000);
    const { forgotten, deleted } = await store.reap(1);
    assert.ok(forgotten <= 1 && deleted <= 1 && forgotten + deleted >= 1);
  },

  "takes over a forgotten key after its dedupe window": async ({ store, advance, ref }) => {
    await complete(store, await claimed(store.claim(newRequest(ref))), hello);
    await advance(replayWindowMs + 1_000);
    await reapAll(store);
    await advance(dedupeWindowMs - replayWindowMs);
    const { record } = await existing(store, ref);
    assert.equal(record.state, "forgotten");
    assert.equal((await claimed(store.takeOver(newRequest(ref), record))).attempt, 1);
  },
};
