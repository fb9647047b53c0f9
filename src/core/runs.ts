/**
 * What runs in this process. Owns: the register of held claims, their heartbeats, and waiting until they end. Must never
 * decide what a key's state means.
 */
import type { Clock } from "./clock.js";
import type { IdempotencyEvent } from "./events.js";
import { nameOf } from "./key.js";
import type { Store } from "./ports.js";
import type { Claim, Guarantee, KeyRef, StoredFingerprint } from "./record.js";

/** A claim that this process holds. */
export interface HeldRun {
  readonly claim: Claim;
  readonly guarantee: Guarantee;
  readonly fingerprint: StoredFingerprint;
  readonly startedMs: number;
  /** After this long its lease is renewed no more. */
  readonly maxRunMs: number;
}

export interface RunRegister {
  /** The run of a key in this process, if there is one whose claim is still renewed. */
  running(ref: KeyRef): HeldRun | undefined;
  /** A claim that is being asked for: until it is known whether it begins a run, that is waited for too. Returns it. */
  expect<Begun>(claiming: Promise<Begun>): Promise<Begun>;
  /** Adds a run and returns what ends it. */
  add(run: HeldRun): () => void;
  /** Resolves when nothing runs, or after the time; the number of what still runs. */
  drain(ms: number): Promise<number>;
  stop(): void;
}

interface RegisterOptions {
  readonly store: Store;
  readonly clock: Clock;
  readonly leaseMs: number;
  readonly heartbeatMs: number;
  /** Called when whoever added a run has ended it. */
  readonly onEnded: (ref: KeyRef) => void;
  readonly onEvent: (event: IdempotencyEvent) => void;
}

/** Claims in one heartbeat statement. */
const maxHeartbeat = 1_000;

export function createRunRegister(options: RegisterOptions): RunRegister {
  const { store, clock, onEvent } = options;
  const runs = new Map<string, HeldRun>();
  /** Claim ids that are renewed no more, because they are lost. */
  const abandoned = new Set<string>();
  /** Claim ids that one beat found to be no running claims. */
  const suspected = new Set<string>();
  /** Claims that are being asked for. */
  let expected = 0;
  let beating = false;
  /** Called once when nothing runs any more. */
  let whenIdle: (() => void)[] = [];

  const beat = async (): Promise<void> => {
    // A beat that hangs is not joined by another one: the store ends it by its own time limit.
    if (beating) return;
    beating = true;
    try {
      const due = [...runs.values()].filter((run) => needsHeartbeat(run));
      for (let start = 0; start < due.length; start += maxHeartbeat) {
        const part = due.slice(start, start + maxHeartbeat);
        const lost = new Set(
          await store.heartbeat(
            part.map((run) => run.claim),
            options.leaseMs,
          ),
        );
        for (const run of part) judge(run, lost.has(run.claim.claimId));
      }
    } catch (error) {
      onEvent({ type: "store_error", during: "heartbeat", error });
    } finally {
      beating = false;
    }
  };

  /**
   * A claim that is being completed is no running claim any more before its holder has heard of it. Only one that is still held
   * and still not running at the next beat is lost; until then its token refuses what it may still write.
   */
  const judge = (run: HeldRun, isGone: boolean): void => {
    const { claimId } = run.claim;
    const wasSuspected = suspected.delete(claimId);
    if (!isGone || runs.get(nameOf(run.claim)) !== run) return;
    if (!wasSuspected) {
      suspected.add(claimId);
      return;
    }
    abandoned.add(claimId);
    onEvent({ type: "lost", guarantee: run.guarantee });
  };

  const needsHeartbeat = (run: HeldRun): boolean => {
    // No lease stands behind an uncommitted claim; its database session does.
    if (run.guarantee === "transaction") return false;
    const isAbandoned = abandoned.has(run.claim.claimId);
    if (clock.monotonicMs() - run.startedMs <= run.maxRunMs) return !isAbandoned;
    // It may never end: it is held no longer, and nobody waits for it.
    remove(run);
    if (!isAbandoned) onEvent({ type: "overrun" });
    return false;
  };

  const remove = (run: HeldRun): void => {
    const name = nameOf(run.claim);
    if (runs.get(name) === run) runs.delete(name);
    abandoned.delete(run.claim.claimId);
    suspected.delete(run.claim.claimId);
    tellIdle();
  };

  const isIdle = (): boolean => runs.size === 0 && expected === 0;

  const tellIdle = (): void => {
    if (!isIdle()) return;
    const idle = whenIdle;
    whenIdle = [];
    for (const tell of idle) tell();
  };

  /** Runs before whoever awaits the claim goes on, and after its run was added. */
  const known = (): void => {
    expected -= 1;
    tellIdle();
  };

  const stopBeating = clock.every(options.heartbeatMs, () => void beat());

  return {
    running: (ref) => {
      const run = runs.get(nameOf(ref));
      // What is renewed no more is the store's to judge, here as in every other process.
      return run === undefined || abandoned.has(run.claim.claimId) ? undefined : run;
    },
    expect: (claiming) => {
      expected += 1;
      claiming.then(known, known);
      return claiming;
    },
    add: (run) => {
      runs.set(nameOf(run.claim), run);
      return () => {
        remove(run);
        options.onEnded(run.claim);
      };
    },
    drain: async (ms) => {
      const startedMs = clock.monotonicMs();
      while (!isIdle()) {
        const leftMs = ms - (clock.monotonicMs() - startedMs);
        if (leftMs <= 0) break;
        const late = new AbortController();
        const idle = new Promise<void>((resolve) => void whenIdle.push(resolve));
        await Promise.race([idle, clock.sleep(leftMs, late.signal)]);
        late.abort();
      }
      return runs.size;
    },
    stop: stopBeating,
  };
}
