#!/usr/bin/env node
/**
 * The command line. Owns: parsing, help and exit codes (see exit.ts). Loads a command's code when it is called, so that a
 * missing optional package is named by the command that needs it and hurts no other.
 */
import { readFileSync } from "node:fs";
import { Command, CommanderError } from "commander";
import { addOperatorCommands } from "./commands.js";
import type { Called, Environment } from "./commands.js";
import { CommandError, exitCodes } from "./exit.js";
import { exitCodeHelp } from "./help.js";

/** Optional peers that each command loads; all of them are named when one is missing, so that one installation is enough. */
const packagesOf: Readonly<Record<string, readonly string[]>> = {
  serve: ["express", "helmet", "pg", "ioredis", "pino", "pino-http", "prom-client"],
  doctor: ["pg", "ioredis"],
  forget: ["pg", "ioredis"],
};
const packagesOfOthers = ["pg"];

/** Runs one command line and answers the exit code. */
export async function run(
  argv: readonly string[],
  env: Environment = process.env,
): Promise<number> {
  const called: Called = { name: "serve", exitCode: exitCodes.ok };
  const program = new Command("oncekey")
    .description("Idempotency keys for HTTP APIs: a retried write becomes harmless.")
    .version(version(), "-V, --version", "print the version")
    .helpOption("-h, --help", "print this help")
    .helpCommand("help [command]", "print the help of a command")
    .showHelpAfterError("Run with --help to see what there is.")
    .addHelpText("after", exitCodeHelp)
    .exitOverride();
  program
    .command("serve")
    .description("run the payments and orders API that shows the library at work")
    .addHelpText("after", serveHelp)
    .action(async () => {
      const { serve } = await import("./serve.js");
      called.exitCode = await serve(env);
    });
  program
    .command("migrate")
    .description("create or update the tables that the library needs; safe to run again")
    .option("--database-url <url>", "Postgres to work on (default: the variable DATABASE_URL)")
    .option("--schema <name>", "schema that holds the tables", "public")
    .option("--new-epoch", "make every cached response of the past a miss: after restoring a dump")
    .option("--json", "answer in JSON")
    .addHelpText("after", migrateHelp)
    .action(async (given: GivenMigrate) => {
      called.name = "migrate";
      const databaseUrl = given.databaseUrl ?? env["DATABASE_URL"] ?? "";
      if (databaseUrl === "")
        program.error("Which database? Give --database-url, or set DATABASE_URL.");
      const { runMigrate } = await import("./migrate.js");
      await runMigrate({
        databaseUrl,
        schema: given.schema,
        newEpoch: given.newEpoch === true,
        json: given.json === true,
      });
    });
  addOperatorCommands(program, env, called);
  try {
    await program.parseAsync([...argv], { from: "user" });
    return called.exitCode;
  } catch (error) {
    return report(error, called.name);
  }
}

interface GivenMigrate {
  readonly databaseUrl?: string;
  readonly schema: string;
  readonly newEpoch?: boolean;
  readonly json?: boolean;
}

/** Says what went wrong and answers the exit code for it. */
function report(error: unknown, command: string): number {
  if (error instanceof CommanderError) {
    // Help and version end parsing as errors do; commander has printed everything already.
    return error.exitCode === 0 ? exitCodes.ok : exitCodes.usage;
  }
  const missing = missingPackage(error);
  const message =
    missing === undefined
      ? messageOf(error)
      : `The package ${missing} is not installed. What \`oncekey ${command}\` needs:\n\n  npm install ${(packagesOf[command] ?? packagesOfOthers).join(" ")}\n`;
  process.stderr.write(`${message}\n`);
  if (error instanceof CommandError) return error.exitCode;
  return error instanceof Error && error.name === "ConfigError"
    ? exitCodes.usage
    : exitCodes.failed;
}

function messageOf(error: unknown): string {
  // Where a name has several addresses, Node wraps what each of them said and says nothing itself.
  if (error instanceof AggregateError && error.message === "")
    return error.errors.map(messageOf).join("; ");
  return error instanceof Error ? error.message : String(error);
}

/** The name in Node's complaint about an import that it cannot find; undefined for a file of ours or another error. */
function missingPackage(error: unknown): string | undefined {
  const { code, message } = error as { code?: unknown; message?: unknown };
  if (code !== "ERR_MODULE_NOT_FOUND" && code !== "MODULE_NOT_FOUND") return undefined;
  const [, name] = /Cannot find (?:package|module) '([^'./][^']*)'/.exec(String(message)) ?? [];
  return name;
}

/** `package.json` lies beside `dist/`, two folders above this file. */
function version(): string {
  const manifest = readFileSync(new URL("../../../package.json", import.meta.url), "utf8");
  return (JSON.parse(manifest) as { version: string }).version;
}

const serveHelp = `
Without any variable it listens on http://localhost:3000, keeps its data in ./.oncekey-data
in a Postgres of its own, and knows one API key: sk_test_demo.

Environment:
  PORT               port to listen on (3000; 0 takes any free one)
  HOST               address to listen on (all)
  DATABASE_URL       Postgres 14 or newer (unset: the embedded one)
  REDIS_URL          Redis 6.2 or newer, for speed (unset: none)
  ONCEKEY_API_KEYS   <key>=<account>, separated by commas (sk_test_demo=acct_demo)
  ONCEKEY_DIALECT    ietf (RFC 9457 problem documents) or stripe (ietf)
  ONCEKEY_POOLER     transaction, behind PgBouncer in transaction mode (unset: none)
  ONCEKEY_DATA_DIR   folder of the embedded Postgres (./.oncekey-data)
  ONCEKEY_LEASE_MS   ms that a claim is believed without a sign of life of its process (30000)
  ONCEKEY_STEP_TIMEOUT_MS  longest run of one step of a checkout in ms (10000)
  ONCEKEY_UPLOAD_IDLE_MS   how long an upload may stand still in ms (300000)
  ONCEKEY_PROCESSES  processes that share the port; auto: one a core (1)
  ONCEKEY_WORKERS    on, or off: this process finishes no abandoned checkouts (on)
  PROVIDER_URL       external payment provider (unset: a built-in one)
  PROVIDER_HONOURS_KEYS  false: the provider charges again for every call (true)
  PROVIDER_LOOKUP    true: charges can be looked up at the provider by their key (false)
  LOG_LEVEL          trace, debug, info, warn, error, fatal or silent (info; warn at a terminal)

Logs go to standard error as JSON lines. SIGTERM or Ctrl-C finishes what runs and then exits.`;

const migrateHelp = `
Examples:
  oncekey migrate --database-url postgres://user@localhost/shop
  DATABASE_URL=postgres://user@localhost/shop oncekey migrate --schema idempotency
${exitCodeHelp}`;

process.exitCode = await run(process.argv.slice(2));
