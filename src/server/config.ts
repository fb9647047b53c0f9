/**
 * The server's configuration from its environment. Owns: names, defaults, and the one validation that reports every
 * problem at once. Must never repeat the value of a variable that holds a credential.
 */
import { availableParallelism } from "node:os";
import { z } from "zod";

export type Dialect = "ietf" | "stripe";

/** Whose key it is: a tenant and the environment in which it works. */
export interface Account {
  readonly id: string;
  /** True for keys that begin with `sk_live_`; they see other charges than the test keys of the same account. */
  readonly livemode: boolean;
}

export interface ServerConfig {
  /** 0 takes any free port. */
  readonly port: number;
  /** Undefined: all interfaces, IPv6 and IPv4. */
  readonly host: string | undefined;
  /** Undefined: the embedded Postgres. */
  readonly databaseUrl: string | undefined;
  /** What stands between this server and Postgres; undefined: nothing, or what keeps sessions. */
  readonly pooler: "transaction" | undefined;
  /** Undefined: no cache. */
  readonly redisUrl: string | undefined;
  readonly accounts: ReadonlyMap<string, Account>;
  readonly dialect: Dialect;
  readonly dataDir: string;
  readonly logLevel: string;
  /** How long a claim is believed without a sign of life of its process, in ms. */
  readonly leaseMs: number;
  /** Longest run of one step of a checkout, in ms. */
  readonly stepTimeoutMs: number;
  /** How long an upload may go without a byte in either direction, in ms. */
  readonly uploadIdleMs: number;
  /** How many processes share the port. */
  readonly processes: number;
  /** Whether this process finishes abandoned checkouts and reaps. */
  readonly workers: boolean;
  /** The external payment provider of checkouts; undefined: the built-in one. */
  readonly providerUrl: string | undefined;
  /** False: the provider charges again for every call, whatever its key. */
  readonly providerHonoursKeys: boolean;
  /** Whether the provider's charges can be looked up by their key. */
  readonly providerLookup: boolean;
  /** Where receipts are delivered; undefined: they wait in the outbox. */
  readonly receipts: { readonly url: string; readonly secret: string } | undefined;
}

/** Thrown with every problem of the environment, one line each. */
export class ConfigError extends Error {
  override readonly name = "ConfigError";

  constructor(readonly problems: readonly string[]) {
    super(`The environment is not valid:\n${problems.map((problem) => `  ${problem}`).join("\n")}`);
  }
}

/** The key of the demo account, known to everybody; a server with real data sets ONCEKEY_API_KEYS. */
const demoKeys = "sk_test_demo=acct_demo";

/** A secret key is no longer than a header line that Node accepts, and has no character that Basic would split at. */
const apiKeyEntry = /^([\w.-]{4,255})=([\w.-]{1,64})$/;

/** Above ten minutes a crash would be noticed too late, and a step would hold its rows too long. */
const mostMs = 600_000;

const environment = z.object({
  PORT: z
    .string()
    .regex(/^\d{1,5}$/, "must be a port from 0 (any free one) to 65535")
    .default("3000")
    .transform(Number)
    .refine((port) => port <= 65_535, "must be a port from 0 (any free one) to 65535"),
  HOST: z.string().optional(),
  DATABASE_URL: urlOf("postgres", "postgresql").optional(),
  REDIS_URL: urlOf("redis", "rediss").optional(),
  ONCEKEY_API_KEYS: z.string().default(demoKeys).transform(readAccounts),
  ONCEKEY_DIALECT: z.enum(["ietf", "stripe"], "must be ietf or stripe").default("ietf"),
  ONCEKEY_DATA_DIR: z.string().default("./.oncekey-data"),
  LOG_LEVEL: z
    .enum(
      ["trace", "debug", "info", "warn", "error", "fatal", "silent"],
      "must be trace, debug, info, warn, error, fatal or silent",
    )
    .optional(),
  ONCEKEY_LEASE_MS: millisecondsFrom(100, 30_000),
  ONCEKEY_STEP_TIMEOUT_MS: millisecondsFrom(100, 10_000),
  // Well above what the sink waits for a Postgres that is away, since a body that nobody reads stands still.
  ONCEKEY_UPLOAD_IDLE_MS: millisecondsFrom(100, 300_000),
  ONCEKEY_PROCESSES: z
    .string()
    .regex(/^(?:auto|[1-9]\d?)$/, "must be auto, or a number from 1 to 99")
    .default("1")
    .transform((text) => (text === "auto" ? availableParallelism() : Number(text))),
  ONCEKEY_WORKERS: z.enum(["on", "off"], "must be on or off").default("on"),
  ONCEKEY_POOLER: z.enum(["transaction"], "must be transaction, or unset").optional(),
  PROVIDER_URL: urlOf("http", "https").optional(),
  PROVIDER_HONOURS_KEYS: z.enum(["true", "false"], "must be true or false").default("true"),
  PROVIDER_LOOKUP: z.enum(["true", "false"], "must be true or false").default("false"),
  RECEIPTS_URL: urlOf("http", "https").optional(),
  RECEIPTS_SECRET: z
    .string()
    .regex(/^whsec_[A-Za-z0-9+/]{32,}={0,2}$/, "must be whsec_ and at least 24 bytes in base64")
    .optional(),
});

/**
 * Reads the configuration. An empty variable counts as unset, as compose files and CI systems leave them.
 *
 * @throws {ConfigError} that lists every problem.
 */
export function readConfig(
  env: Readonly<Record<string, string | undefined>>,
  isTerminal = false,
): ServerConfig {
  const entries = Object.entries(env).filter(([, value]) => value !== undefined && value !== "");
  const present = Object.fromEntries(entries);
  const result = environment.safeParse(present);
  const isHalf =
    (present["RECEIPTS_URL"] === undefined) !== (present["RECEIPTS_SECRET"] === undefined);
  const half = isHalf ? ["RECEIPTS_URL and RECEIPTS_SECRET must be set together"] : [];
  const wrong =
    result.error?.issues.map((issue) => `${issue.path.join(".")} ${issue.message}`) ?? [];
  if (!result.success || isHalf) throw new ConfigError([...wrong, ...half]);
  const read = result.data;
  const { RECEIPTS_URL: url, RECEIPTS_SECRET: secret } = read;
  return {
    port: read.PORT,
    host: read.HOST,
    databaseUrl: read.DATABASE_URL,
    pooler: read.ONCEKEY_POOLER,
    redisUrl: read.REDIS_URL,
    accounts: read.ONCEKEY_API_KEYS,
    dialect: read.ONCEKEY_DIALECT,
    dataDir: read.ONCEKEY_DATA_DIR,
    // A line of JSON per request helps a log collector and hides the curl command from somebody at a terminal.
    logLevel: read.LOG_LEVEL ?? (isTerminal ? "warn" : "info"),
    leaseMs: read.ONCEKEY_LEASE_MS,
    stepTimeoutMs: read.ONCEKEY_STEP_TIMEOUT_MS,
    uploadIdleMs: read.ONCEKEY_UPLOAD_IDLE_MS,
    processes: read.ONCEKEY_PROCESSES,
    workers: read.ONCEKEY_WORKERS === "on",
    providerUrl: read.PROVIDER_URL,
    providerHonoursKeys: read.PROVIDER_HONOURS_KEYS === "true",
    providerLookup: read.PROVIDER_LOOKUP === "true",
    receipts: url === undefined || secret === undefined ? undefined : { url, secret },
  };
}

function millisecondsFrom(least: number, otherwise: number) {
  const message = `must be milliseconds from ${least} to ${mostMs}`;
  return z
    .string()
    .regex(/^\d{1,6}$/, message)
    .default(String(otherwise))
    .transform(Number)
    .refine((ms) => ms >= least && ms <= mostMs, message);
}

function urlOf(...schemes: readonly string[]): z.ZodType<string> {
  const wanted = schemes.map((scheme) => `${scheme}:`);
  const isOne = (value: string): boolean =>
    URL.canParse(value) && wanted.includes(new URL(value).protocol);
  return z.string().refine(isOne, `must be a URL that begins with ${schemes.join(":// or ")}://`);
}

function readAccounts(text: string, context: z.RefinementCtx): ReadonlyMap<string, Account> {
  const accounts = new Map<string, Account>();
  text.split(",").forEach((entry, index) => {
    const [, key, id] = apiKeyEntry.exec(entry.trim()) ?? [];
    const problem = (message: string): void =>
      context.addIssue({ code: "custom", message: `entry ${index + 1} ${message}` });
    if (key === undefined || id === undefined) {
      problem("must be <key>=<account>, such as sk_test_a=acct_a (letters, digits, _ . -)");
    } else if (accounts.has(key)) problem("repeats a key");
    else accounts.set(key, { id, livemode: key.startsWith("sk_live_") });
  });
  return accounts;
}
