/**
 * The epoch that a store was in when it was last asked. Owns: how long that is believed. Undefined is always safe: nothing is
 * then looked up in a cache, and the store answers.
 */
import type { Clock } from "../core/clock.js";

export interface EpochOptions {
  /** Infinity: until a connection is lost. */
  readonly believedMs: number;
  /** Reads the epoch by way of `read`. Called when somebody asks and it is unknown, or will soon be too old to be believed. */
  readonly refresh: () => Promise<unknown>;
  readonly clock: Pick<Clock, "monotonicMs">;
}

export interface EpochWatch {
  current(): string | undefined;
  /** As `current`, without asking for what is not known. */
  isKnown(): boolean;
  /** Takes what was read. `askedAtMs` is from before the query: the answer may have been on its way for a while. */
  read(epoch: string | undefined, askedAtMs: number): void;
}

export function watchEpoch({ believedMs, refresh, clock }: EpochOptions): EpochWatch {
  let known: { readonly epoch: string; readonly askedAtMs: number } | undefined;
  let isRefreshing = false;
  const ageMs = (): number => {
    if (known === undefined) return Infinity;
    return believedMs === Infinity ? 0 : clock.monotonicMs() - known.askedAtMs;
  };
  const isKnown = (): boolean => known !== undefined && ageMs() <= believedMs;
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
      // Before it is too old, so that steady traffic always knows; and not at all without traffic. Transaction routes alone
      // would never know: they have connections of their own.
      if (ageMs() >= believedMs / 2) void refreshOnce();
      return isKnown() ? known?.epoch : undefined;
    },
    isKnown,
    read: (epoch, askedAtMs) => {
      // Of two answers the later question counts: the other one may have been put before a failover.
      if (epoch !== undefined && known !== undefined && askedAtMs < known.askedAtMs) return;
      known = epoch === undefined ? undefined : { epoch, askedAtMs };
    },
  };
}
