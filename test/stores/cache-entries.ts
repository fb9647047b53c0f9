/** What tests of the Redis cache ask and keep. */
import { randomUUID } from "node:crypto";

import type { CacheEntry } from "../../src/core/ports.js";
import type { KeyRef } from "../../src/core/record.js";

export const epoch = "5e1c.7.1";
export const nothing = { kind: "absent" };
/** Machines that run tests are busy: where time is no subject, no time-out may hide what is. */
export const patientMs = 5_000;

export function newEntry(
  ref: KeyRef,
  given: Partial<CacheEntry> & { body?: Buffer } = {},
): CacheEntry {
  const { body = Buffer.from("hello"), ...rest } = given;
  return {
    record: {
      ...ref,
      state: "completed",
      claimId: randomUUID(),
      token: 7,
      attempt: 1,
      guarantee: "at_most_once",
      fingerprint: "v1::one",
      fieldHashes: '{"body.amount":"aa"}',
      method: "POST",
      path: "/charges?a=b",
      requestId: "req_1",
      leaseUntilMs: undefined,
      nextAttemptMs: undefined,
      notStored: false,
      response: { status: 201, headers: [["Link", ["<a>", "<b>"]]], body },
      replayUntilMs: 1_700_000_100_000,
      dedupeUntilMs: 1_700_000_900_000,
    },
    replayLeftMs: 100_000,
    readAtMs: 0,
    epoch,
    ...rest,
  };
}

export function asker(fingerprint = "v1::one"): { claimId: string; fingerprint: string } {
  return { claimId: randomUUID(), fingerprint };
}
