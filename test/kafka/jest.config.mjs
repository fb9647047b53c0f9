import base from "../../jest.config.mjs";

/** `npm run test:kafka`, which has fetched a broker before. */
export default {
  ...base,
  rootDir: "../..",
  testMatch: ["<rootDir>/test/kafka/kafka.ts"],
  reporters: ["default"],
  transformIgnorePatterns: [
    base.transformIgnorePatterns[0].replace("superjson|", "superjson|@platformatic|mnemonist|"),
  ],
  testTimeout: 120_000,
};
