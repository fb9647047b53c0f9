/**
 * Whether the cache is looked at before the store is asked. Owns: when a look pays. A look that finds nothing costs every first run
 * a round trip, and the store's claim answers a retry as rightly as the cache does.
 */

export interface LookPolicy {
  /** True when looking first is likely to save the store a question. */
  pays(): boolean;
  /** Of each claim: whether its key was there already, in the cache or in the store. */
  note(wasThere: boolean): void;
  /** The store has failed: what the cache can answer, it should. */
  storeFailed(): void;
}

/** About as many claims as the share of retries is taken of. */
const remembered = 32;
/** From this share of retries on, looks pay: in a storm of them the store is spared, in ordinary traffic first runs are. */
const enough = 1 / 8;

/** Begins by looking: with nothing known, the store is spared. Some seventy first runs in a row end that, four retries bring it back. */
export function createLookPolicy(): LookPolicy {
  let share = 1;
  return {
    pays: () => share >= enough,
    note: (wasThere) => {
      share += ((wasThere ? 1 : 0) - share) / remembered;
    },
    storeFailed: () => {
      share = 1;
    },
  };
}
