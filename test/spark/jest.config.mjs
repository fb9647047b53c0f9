import base from "../../jest.config.mjs";

/** `npm run test:spark`, which has fetched Spark before. */
export default {
  ...base,
  rootDir: "../..",
  testMatch: ["<rootDir>/test/spark/delta.ts"],
  reporters: ["default"],
  testTimeout: 120_000,
  transformIgnorePatterns: [
    base.transformIgnorePatterns[0].replace("superjson|", "superjson|hyparquet-writer|hyparquet|"),
  ],
  // Not needed here: neither Postgres nor Redis takes part.
  globalSetup: undefined,
  globalTeardown: undefined,
};
