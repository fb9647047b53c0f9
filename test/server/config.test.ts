import { ConfigError, readConfig } from "../../src/server/config.js";

const receiptsSecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

test("needs nothing", () => {
  expect(readConfig({ REDIS_URL: "", PATH: "/bin" })).toEqual({
    port: 3000,
    host: undefined,
    databaseUrl: undefined,
    redisUrl: undefined,
    accounts: new Map([["sk_test_demo", { id: "acct_demo", livemode: false }]]),
    dialect: "ietf",
    dataDir: "./.oncekey-data",
    logLevel: "info",
    leaseMs: 30_000,
    stepTimeoutMs: 10_000,
    uploadIdleMs: 300_000,
    processes: 1,
    workers: true,
    providerUrl: undefined,
    providerHonoursKeys: true,
    providerLookup: false,
    receipts: undefined,
  });
});

test("reads every variable", () => {
  expect(
    readConfig({
      PORT: "0",
      HOST: "127.0.0.1",
      DATABASE_URL: "postgresql://u:p@db/shop",
      REDIS_URL: "rediss://cache:6380",
      ONCEKEY_API_KEYS: "sk_test_a=acct_a, sk_live_b=acct_b",
      ONCEKEY_DIALECT: "stripe",
      ONCEKEY_POOLER: "transaction",
      ONCEKEY_DATA_DIR: "/data",
      LOG_LEVEL: "debug",
      ONCEKEY_LEASE_MS: "100",
      ONCEKEY_STEP_TIMEOUT_MS: "600000",
      ONCEKEY_UPLOAD_IDLE_MS: "100",
      ONCEKEY_PROCESSES: "12",
      ONCEKEY_WORKERS: "off",
      PROVIDER_URL: "https://provider.example",
      PROVIDER_HONOURS_KEYS: "false",
      PROVIDER_LOOKUP: "true",
      RECEIPTS_URL: "https://hooks.example/receipts",
      RECEIPTS_SECRET: receiptsSecret,
    }),
  ).toEqual({
    port: 0,
    host: "127.0.0.1",
    databaseUrl: "postgresql://u:p@db/shop",
    redisUrl: "rediss://cache:6380",
    pooler: "transaction",
    accounts: new Map([
      ["sk_test_a", { id: "acct_a", livemode: false }],
      ["sk_live_b", { id: "acct_b", livemode: true }],
    ]),
    dialect: "stripe",
    dataDir: "/data",
    logLevel: "debug",
    leaseMs: 100,
    stepTimeoutMs: 600_000,
    uploadIdleMs: 100,
    processes: 12,
    workers: false,
    providerUrl: "https://provider.example",
    providerHonoursKeys: false,
    providerLookup: true,
    receipts: { url: "https://hooks.example/receipts", secret: receiptsSecret },
  });
});

test("logs no line per request to somebody at a terminal, unless asked to", () => {
  expect(readConfig({}, true).logLevel).toBe("warn");
  expect(readConfig({ LOG_LEVEL: "info" }, true).logLevel).toBe("info");
});

test("reports every problem at once, and repeats no secret", () => {
  const readWrong = (): unknown =>
    readConfig({
      PORT: "70000",
      DATABASE_URL: "mysql://u:hunter2@db/shop",
      REDIS_URL: "localhost:6379",
      ONCEKEY_API_KEYS: "sk_test_hush,sk_test_a=acct_a,sk_test_a=acct_b,sk_test_c=a/c",
      ONCEKEY_DIALECT: "Stripe",
      ONCEKEY_POOLER: "session",
      LOG_LEVEL: "loud",
      ONCEKEY_LEASE_MS: "99",
      ONCEKEY_STEP_TIMEOUT_MS: "1 s",
      ONCEKEY_UPLOAD_IDLE_MS: "-1",
      ONCEKEY_PROCESSES: "0",
      ONCEKEY_WORKERS: "true",
      PROVIDER_URL: "ftp://x",
      PROVIDER_HONOURS_KEYS: "no",
      PROVIDER_LOOKUP: "yes",
      RECEIPTS_SECRET: "hush",
    });
  expect(readWrong).toThrow(ConfigError);
  expect(problemsOf(readWrong)).toEqual([
    "PORT must be a port from 0 (any free one) to 65535",
    "DATABASE_URL must be a URL that begins with postgres:// or postgresql://",
    "REDIS_URL must be a URL that begins with redis:// or rediss://",
    "ONCEKEY_API_KEYS entry 1 must be <key>=<account>, such as sk_test_a=acct_a (letters, digits, _ . -)",
    "ONCEKEY_API_KEYS entry 3 repeats a key",
    "ONCEKEY_API_KEYS entry 4 must be <key>=<account>, such as sk_test_a=acct_a (letters, digits, _ . -)",
    "ONCEKEY_DIALECT must be ietf or stripe",
    "LOG_LEVEL must be trace, debug, info, warn, error, fatal or silent",
    "ONCEKEY_LEASE_MS must be milliseconds from 100 to 600000",
    "ONCEKEY_STEP_TIMEOUT_MS must be milliseconds from 100 to 600000",
    "ONCEKEY_UPLOAD_IDLE_MS must be milliseconds from 100 to 600000",
    "ONCEKEY_PROCESSES must be auto, or a number from 1 to 99",
    "ONCEKEY_WORKERS must be on or off",
    "ONCEKEY_POOLER must be transaction, or unset",
    "PROVIDER_URL must be a URL that begins with http:// or https://",
    "PROVIDER_HONOURS_KEYS must be true or false",
    "PROVIDER_LOOKUP must be true or false",
    "RECEIPTS_SECRET must be whsec_ and at least 24 bytes in base64",
    "RECEIPTS_URL and RECEIPTS_SECRET must be set together",
  ]);
});

function problemsOf(read: () => unknown): readonly string[] {
  try {
    read();
  } catch (error) {
    return (error as ConfigError).problems;
  }
  return [];
}
