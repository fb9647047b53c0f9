import base from "../../jest.config.mjs";

/** The long round of `npm run fuzz`; a short one is part of `npm test`. */
export default {
  ...base,
  rootDir: "../..",
  testMatch: ["<rootDir>/test/fuzz/fuzz.ts"],
  reporters: ["default"],
  testTimeout: 3_600_000,
};
