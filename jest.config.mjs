const swc = {
  swcrc: false,
  sourceMaps: "inline",
  jsc: { target: "es2022", parser: { syntax: "typescript" } },
  module: { type: "commonjs" },
};

export default {
  testEnvironment: "<rootDir>/test/support/environment.cjs",
  roots: ["<rootDir>/test"],
  testMatch: ["<rootDir>/test/**/*.test.ts"],
  moduleNameMapper: { "^(\\.{1,2}/.*)\\.js$": "$1" },
  transform: { "^.+\\.ts$": ["@swc/jest", swc], "^.+\\.js$": ["@swc/jest", swc] },
  // Published as ES modules only, which jest cannot load as they are on Node 20.
  transformIgnorePatterns: [
    "/node_modules/(?!(superjson|copy-anything|is-what|@nestjs|light-my-request/node_modules/cookie|cookie)/)",
  ],
  modulePathIgnorePatterns: ["<rootDir>/dist/", "<rootDir>/.cache/"],
  globalSetup: "<rootDir>/test/support/global-setup.cjs",
  globalTeardown: "<rootDir>/test/support/global-teardown.cjs",
  setupFilesAfterEnv: ["<rootDir>/test/support/each-file.ts"],
  reporters: ["default", "<rootDir>/scripts/plain-summary-reporter.cjs"],
  maxWorkers: 2,
  testTimeout: 120_000,
};
