/**
 * Load on a store's verbs, without HTTP. Owns: a closed loop (so many at once) and an open one (so many a second), and the time
 * that each verb took. In the open loop time counts from when an operation was due, so that a stall is charged for
 * everything that it kept waiting.
 */
import { randomBytes, randomUUID } from "node:crypto";
import { build, type Histogram } from "hdr-histogram-js";

import type { CacheableStore } from "../../src/core/ports.js";
import type { ClaimRequest, KeyRef, Windows } from "../../src/core/record.js";
import { scopes, type KeyKind } from "./fill.js";

export interface Latency {
  readonly p50: number;
  readonly p99: number;
  readonly max: number;
}
export interface LoadResult {
  readonly perSecond: number;
  readonly operations: number;
  readonly claim: Latency;
  readonly complete: Latency;
}

const day = 86_400_000;
export const usualWindows: Windows = { replayWindowMs: day, dedupeWindowMs: 30 * day };

export function newKey(kind: KeyKind): string {
  if (kind === "random") return randomUUID();
  const hex = Date.now().toString(16).padStart(12, "0");
  const rest = randomBytes(10).toString("hex");
  return `${hex.slice(0, 8)}-${hex.slice(8)}-7${rest.slice(0, 3)}-8${rest.slice(3, 6)}-${rest.slice(6, 18)}`;
}

function newRequest(kind: KeyKind): ClaimRequest {
  return {
    scope: `acct_${Math.floor(Math.random() * scopes)}`,
    key: newKey(kind),
    claimId: randomUUID(),
    guarantee: "at_most_once",
    fingerprint: {
      text: `v1::${randomBytes(32).toString("base64url")}`,
      fieldHashes: '{"method":"3f9a02c1","path":"11ab90de","body.amount":"9a0c41f2"}',
    },
    method: "POST",
    path: "/v1/charges",
    requestId: `req_${randomBytes(12).toString("hex")}`,
    leaseMs: 30_000,
  };
}

export interface FirstRuns {
  readonly keys: KeyKind;
  readonly seconds: number;
  /** How many at once; with `rate`, the most that are under way. */
  readonly concurrency: number;
  /** Operations a second; absent: as many as it takes. */
  readonly rate?: number;
  readonly body: Buffer;
  readonly windows?: Windows;
}

/** Claims new keys and completes them. */
export async function firstRuns(store: CacheableStore, order: FirstRuns): Promise<LoadResult> {
  const claim = newHistogram();
  const complete = newHistogram();
  const windows = order.windows ?? usualWindows;
  const response = {
    status: 201,
    headers: [["Content-Type", "application/json; charset=utf-8"]] as const,
    body: order.body,
  };
  const { operations, seconds } = await drive(order, async (dueMs) => {
    const answer = await store.claim(newRequest(order.keys));
    const claimedMs = performance.now();
    record(claim, claimedMs - dueMs);
    if (answer.kind !== "claimed") throw new Error(`a new key was ${answer.kind}`);
    const done = await store.complete(answer.claim, { response, ...windows });
    if (done.kind !== "ok") throw new Error(`a completion was ${done.kind}`);
    record(complete, performance.now() - claimedMs);
  });
  return {
    perSecond: operations / seconds,
    operations,
    claim: read(claim),
    complete: read(complete),
  };
}

/** Finds stored keys, as a replay that no cache answers. */
export async function replays(
  store: CacheableStore,
  refs: readonly KeyRef[],
  order: { readonly seconds: number; readonly concurrency: number },
): Promise<{ readonly perSecond: number; readonly find: Latency }> {
  const find = newHistogram();
  let next = 0;
  const { operations, seconds } = await drive(order, async (dueMs) => {
    const found = await store.find(refs[(next += 1) % refs.length] as KeyRef);
    if (found?.record.response === undefined) throw new Error("a stored key was not found");
    record(find, performance.now() - dueMs);
  });
  return { perSecond: operations / seconds, find: read(find) };
}

async function drive(
  order: Pick<FirstRuns, "seconds" | "concurrency" | "rate">,
  once: (dueMs: number) => Promise<void>,
): Promise<{ operations: number; seconds: number }> {
  const startedMs = performance.now();
  const endMs = startedMs + order.seconds * 1_000;
  let operations = 0;
  const { rate } = order;
  const worker = async (): Promise<void> => {
    while (performance.now() < endMs) {
      const dueMs =
        rate === undefined ? performance.now() : startedMs + (operations * 1_000) / rate;
      operations += 1;
      if (dueMs >= endMs) return;
      await until(dueMs);
      await once(dueMs);
    }
  };
  await Promise.all(Array.from({ length: order.concurrency }, worker));
  return { operations, seconds: (performance.now() - startedMs) / 1_000 };
}

async function until(dueMs: number): Promise<void> {
  const waitMs = dueMs - performance.now();
  if (waitMs > 0) await new Promise((resolve) => setTimeout(resolve, waitMs));
}

function newHistogram(): Histogram {
  return build({ lowestDiscernibleValue: 1, highestTrackableValue: 60_000_000 });
}

function record(histogram: Histogram, ms: number): void {
  histogram.recordValue(Math.max(1, Math.round(ms * 1_000)));
}

function read(histogram: Histogram): Latency {
  const at = (percentile: number): number => histogram.getValueAtPercentile(percentile) / 1_000;
  return { p50: at(50), p99: at(99), max: histogram.maxValue / 1_000 };
}
