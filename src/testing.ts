/**
 * What every store must do, as tests for any runner: `oncekey/testing`. Owns: the contract of {@link Store}. Must never know a
 * store by name; whoever writes one runs these cases against it.
 */
import { newRef } from "./stores/contract/bench.js";
import type { StoreUnderTest } from "./stores/contract/bench.js";
import { claimCases } from "./stores/contract/claims.js";
import { responseCases } from "./stores/contract/responses.js";

export type { Store } from "./core/ports.js";
export type { StoreUnderTest } from "./stores/contract/bench.js";

export interface StoreContractOptions {
  /** Registers a test: `test` of jest, vitest or `node:test`. */
  readonly test: (name: string, run: () => Promise<void>) => unknown;
  /** Called once for each test. */
  readonly open: () => Promise<StoreUnderTest> | StoreUnderTest;
}

/**
 * Registers the tests of the store contract. They check every verb of {@link Store} but not its transactions, and what
 * happens when claimers, holders and reapers of two instances meet.
 */
export function storeContract(options: StoreContractOptions): void {
  for (const [name, run] of Object.entries({ ...claimCases, ...responseCases })) {
    options.test(name, async () => {
      const opened = await options.open();
      const { store, second = store } = opened;
      try {
        await run({
          store,
          second,
          ref: newRef(),
          advance: (ms) => opened.advance(ms),
          close: () => opened.close(),
        });
      } finally {
        await opened.close();
      }
    });
  }
}
