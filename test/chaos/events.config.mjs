import base from "../../jest.config.mjs";

/** The storm of `npm run chaos:events`, which is no part of `npm test`. */
export default {
  ...base,
  rootDir: "../..",
  testMatch: ["<rootDir>/test/chaos/events.ts"],
  reporters: ["default"],
};
