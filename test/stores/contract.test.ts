import { memoryStore } from "../../src/stores/memory.js";
import { storeContract } from "../../src/testing.js";
import { openPostgres, openTiered, openUnlooked, useMigratedDatabase } from "./open-stores.js";

describe("memory", () => {
  storeContract({
    test,
    open: () => {
      let nowMs = 1_700_000_000_000;
      const store = memoryStore({ clock: { monotonicMs: () => nowMs } });
      return { store, advance: (ms) => void (nowMs += ms), close: () => store.close() };
    },
  });
});

describe("postgres", () => {
  const database = useMigratedDatabase();
  storeContract({ test, open: () => openPostgres(database.pool) });
});

describe("postgres behind redis", () => {
  const database = useMigratedDatabase();
  storeContract({ test, open: () => openTiered(database.pool) });
});

describe("postgres behind redis, where most keys are new", () => {
  const database = useMigratedDatabase();
  storeContract({ test, open: () => openUnlooked(database.pool) });
});
