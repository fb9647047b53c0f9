/**
 * Completed responses that this process has just stored or seen, so that a replay needs no round trip. Owns: their size, age
 * and epoch. Must never hold what is not completed, and never answer for longer than the replay window or the bounded age,
 * within which what operators erase elsewhere reaches it.
 */
import { LRUCache } from "lru-cache";
import type { Clock } from "../core/clock.js";
import { nameOf } from "../core/key.js";
import type { CacheEntry } from "../core/ports.js";
import type { KeyRef, Observation } from "../core/record.js";

export interface NearCacheOptions {
  /** Bytes of all entries together. */
  readonly maxBytes: number;
  /** How long an entry may answer, in ms from before it was read. */
  readonly maxAgeMs: number;
  readonly clock: Pick<Clock, "monotonicMs">;
}

export interface NearCache {
  /** A completed record of this epoch whose replay window is known to be open; undefined: ask. */
  look(ref: KeyRef, epoch: string): Observation | undefined;
  keep(entry: CacheEntry): void;
  forget(ref: KeyRef): void;
}

/** What an entry takes beside its texts and its body: the objects around them. Measured, and rounded up. */
const overheadBytes = 1_024;

export function createNearCache({ maxBytes, maxAgeMs, clock }: NearCacheOptions): NearCache {
  const entries = new LRUCache<string, CacheEntry>({
    maxSize: maxBytes,
    sizeCalculation: bytesOf,
  });
  return {
    look: (ref, epoch) => {
      const name = nameOf(ref);
      const entry = entries.get(name);
      if (entry === undefined) return undefined;
      const ageMs = clock.monotonicMs() - entry.readAtMs;
      if (ageMs < maxAgeMs && ageMs < entry.replayLeftMs && entry.epoch === epoch) {
        // The store's time when it was read, moved on by more than has passed since.
        const nowMs = (entry.record.replayUntilMs ?? 0) - entry.replayLeftMs + ageMs;
        return { record: entry.record, nowMs };
      }
      entries.delete(name);
      return undefined;
    },
    keep: (entry) => void entries.set(nameOf(entry.record), entry),
    forget: (ref) => void entries.delete(nameOf(ref)),
  };
}

function bytesOf({ record }: CacheEntry): number {
  const { response, scope, key, fieldHashes } = record;
  let units = scope.length + key.length + fieldHashes.length;
  for (const [name, value] of response.headers) units += name.length + value.length + 32;
  return overheadBytes + response.body.byteLength + 2 * units;
}
