import base from "../../jest.config.mjs";

/** The storms of `npm run chaos`, which are no part of `npm test`. */
export default {
  ...base,
  rootDir: "../..",
  testMatch: ["<rootDir>/test/chaos/chaos.ts"],
  reporters: ["default"],
  testTimeout: 300_000,
};
