import base from "../../jest.config.mjs";

/** `npm run test:merge`: engines whose drivers are not among the package's dependencies. */
export default {
  ...base,
  rootDir: "../..",
  testMatch: ["<rootDir>/test/engines/*.engine.ts"],
  reporters: ["default"],
};
