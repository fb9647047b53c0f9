/**
 * Whether the cache is looked at before the store is asked, and whether this process keeps what has just ended. Owns: when that
 * pays. A look that finds nothing costs every first run a round trip, a response that nobody asks for again grows old among the garbage,
 * and the store's claim answers a retry as rightly as caches do, while the store answers.
 */
import type { Clock } from "../core/clock.js";

export interface LookPolicy {
  /** True when caches are likely to spare the store a question, or when the store is in trouble. */
  pays(): boolean;
  /** A look has found the key, so that the store was not asked. */
  found(): void;
  /** The store is being asked; `answered` or `failed` follows. */
  asks(): void;
  /** `wasThere`: the key was in the store already. */
  answered(wasThere: boolean): void;
  failed(): void;
}

/** About as many claims as the share of retries is taken of. */
const remembered = 32;
/** From this share of retries on, looks pay: in a storm of them the store is spared, in ordinary traffic first runs are. */
const enough = 1 / 8;
/** A store that owes answers and has given none for as long may hang: what the cache can answer, it should. */
const silentMs = 500;

/** Begins by looking: with nothing known, the store is spared. Some seventy first runs in a row end that, four retries bring it back. */
export function createLookPolicy({ monotonicMs }: Pick<Clock, "monotonicMs">): LookPolicy {
  let share = 1;
  let pending = 0;
  let heardAtMs = 0;
  const note = (wasThere: boolean): void => {
    share += ((wasThere ? 1 : 0) - share) / remembered;
  };
  const heard = (): void => {
    pending -= 1;
    heardAtMs = monotonicMs();
  };
  return {
    pays: () => share >= enough || (pending > 0 && monotonicMs() - heardAtMs > silentMs),
    found: () => note(true),
    asks: () => {
      if (pending === 0) heardAtMs = monotonicMs();
      pending += 1;
    },
    answered: (wasThere) => {
      heard();
      note(wasThere);
    },
    failed: () => {
      heard();
      share = 1;
    },
  };
}
