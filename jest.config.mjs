/** Packages that ship ES modules only; jest compiles them with the tests. */
const esmOnly = ["content-type"];

const swc = {
  swcrc: false,
  sourceMaps: "inline",
  jsc: { target: "es2022", parser: { syntax: "typescript" } },
  module: { type: "commonjs" },
};

export default {
  testEnvironment: "node",
  roots: ["<rootDir>/test"],
  testMatch: ["<rootDir>/test/**/*.test.ts"],
  moduleNameMapper: { "^(\\.{1,2}/.*)\\.js$": "$1" },
  transform: { "^.+\\.(ts|js|mjs)$": ["@swc/jest", swc] },
  transformIgnorePatterns: [`/node_modules/(?!(${esmOnly.join("|")})/)`],
  modulePathIgnorePatterns: ["<rootDir>/dist/", "<rootDir>/.cache/"],
  globalSetup: "<rootDir>/test/support/global-setup.cjs",
  globalTeardown: "<rootDir>/test/support/global-teardown.cjs",
  setupFilesAfterEnv: ["<rootDir>/test/support/each-file.ts"],
  reporters: ["default", "<rootDir>/scripts/plain-summary-reporter.cjs"],
  maxWorkers: 2,
  testTimeout: 30_000,
};
