/**
 * The epoch that a store was in when it was last asked. Owns: how long that is believed. Undefined is always safe: nothing is
 * then looked up in a cache, and the store answers.
 */
import type { Clock } from "../core/clock.js";

export interface EpochOptions {
  /** Undefined: until a connection is lost. */
  readonly believedMs: number | undefined;
  /** Reads the epoch again, by way of `read`. Called only where belief ends by time. */
  readonly refresh: () => Promise<unknown>;
  readonly clock: Pick<Clock, "monotonicMs">;
}

export interface EpochWatch {
  current(): string | undefined;
  /** Takes what was read. `askedAtMs` is from before the query: the answer may have been on its way for a while. */
  read(epoch: string | undefined, askedAtMs: number): void;
}

export function watchEpoch({ believedMs, refresh, clock }: EpochOptions): EpochWatch {
  let known: { readonly epoch: string; readonly askedAtMs: number } | undefined;
  let isRefreshing = false;
  const refreshOnce = async (): Promise<void> => {
    if (isRefreshing) return;
    isRefreshing = true;
    try {
      await refresh();
    } catch {
      // Nothing is known, and the store answers.
    } finally {
      isRefreshing = false;
    }
  };
  return {
    current: () => {
      if (believedMs === undefined) return known?.epoch;
      const ageMs = known === undefined ? Infinity : clock.monotonicMs() - known.askedAtMs;
      // Before it is too late, so that steady traffic always knows; and not at all without traffic.
      if (ageMs > believedMs / 2) void refreshOnce();
      return ageMs <= believedMs ? known?.epoch : undefined;
    },
    read: (epoch, askedAtMs) => {
      // Of two answers the later question counts: the other one may have been put before a failover.
      if (epoch !== undefined && known !== undefined && askedAtMs < known.askedAtMs) return;
      known = epoch === undefined ? undefined : { epoch, askedAtMs };
    },
  };
}
