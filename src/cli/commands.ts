/**
 * The commands for operators: their options and help. Loads a command's code when it is called, so that a missing optional
 * package is named by the command that needs it and hurts no other.
 */
import { InvalidArgumentError } from "commander";
import type { Command } from "commander";
import { usageError } from "./exit.js";
import { helpOf } from "./help.js";
import { addLoadOptions, readLoadOptions } from "./load-options.js";
import type { GivenLoad } from "./load-options.js";

export type Environment = Readonly<Record<string, string | undefined>>;

/** What the program learns of the command that was called. */
export interface Called {
  name: string;
  exitCode: number;
}

interface GivenPlace {
  readonly databaseUrl?: string;
  readonly schema: string;
  readonly json?: boolean;
  readonly redisUrl?: string;
}

interface GivenKey extends GivenPlace {
  readonly scope?: string;
}

interface GivenSettlement extends GivenKey {
  readonly why: string;
  readonly by?: string;
}

const day = 86_400_000;
const defaultReplayWindowMs = day;
const defaultDedupeWindowMs = 30 * day;
/** The reaper's own: a few milliseconds of work. */
const defaultBatch = 500;

export function addOperatorCommands(program: Command, env: Environment, called: Called): void {
  const add = (usage: string, description: string): Command => {
    const command = program.command(usage).description(description);
    const [name = ""] = usage.split(" ");
    return withPlaceOptions(command)
      .addHelpText("after", helpOf(name))
      .hook("preAction", () => void (called.name = name));
  };
  const place = (given: GivenPlace) => readPlace(given, env);
  const settlement = (key: string, given: GivenSettlement) => ({
    ...place(given),
    key,
    scope: given.scope,
    settler: { by: readSettler(given, env), why: readWhy(given) },
  });

  add("status", "count the keys, and list those that wait for you")
    .option("--list <n>", "how many of those to list", wholeNumber, 20)
    .action(async (given: GivenPlace & { readonly list: number }) => {
      const { runStatus } = await import("./status.js");
      await runStatus(place(given), given.list);
    });
  withScope(add("inspect <key>", "show all that is known of a key, and what can be done about it"))
    .option("--show-body", "show the body of the response as well")
    .action(async (key: string, given: GivenKey & { readonly showBody?: boolean }) => {
      const { runInspect } = await import("./inspect.js");
      await runInspect(place(given), { key, scope: given.scope }, given.showBody === true);
    });
  withSettler(
    withScope(add("release <key>", "give back an abandoned or set-aside key: nothing was done")),
  ).action(async (key: string, given: GivenSettlement) => {
    const { runNotExecuted } = await import("./settle.js");
    await runNotExecuted(settlement(key, given));
  });
  addResolve(
    withSettler(withScope(add("resolve <key>", "say what came of a key whose outcome is unknown"))),
    settlement,
  );
  withSettler(
    withScope(add("retry <key>", "let a steps request that was given up run again")),
  ).action(async (key: string, given: GivenSettlement) => {
    const { runRetry } = await import("./settle.js");
    await runRetry(settlement(key, given));
  });
  addForget(
    withSettler(withScope(add("forget <key>", "erase the response of a key, and keep the key"))),
    env,
    settlement,
  );
  add("reap", "remove responses and keys whose time is over")
    .option("--limit <rows>", "most rows of one batch", positiveNumber, defaultBatch)
    .action(async (given: GivenPlace & { readonly limit: number }) => {
      const { runReap } = await import("./reap.js");
      await runReap(place(given), given.limit);
    });
  addLoadOptions(
    add("load <file>", "put the records of a file into a table, each of them once"),
  ).action(async (file: string, given: GivenPlace & GivenLoad) => {
    const options = readLoadOptions(file, place(given), given);
    const { runLoad } = await import("./load.js");
    await runLoad(options);
  });
  addDoctor(add("doctor", "check Postgres, the schema, poolers and Redis"), env, called);
}

type ReadSettlement = (
  key: string,
  given: GivenSettlement,
) => ReturnType<typeof readPlace> & {
  readonly key: string;
  readonly scope: string | undefined;
  readonly settler: { readonly by: string; readonly why: string };
};

interface GivenResolution extends GivenSettlement {
  readonly completed?: string;
  readonly notExecuted?: boolean;
  readonly replayWindowMs: number;
  readonly dedupeWindowMs: number;
}

function addResolve(command: Command, settlement: ReadSettlement): void {
  command
    .option(
      "--completed <file>",
      "it was done; answer with the reply in this file (- reads standard input)",
    )
    .option("--not-executed", "nothing was done; the key is free again")
    .option(
      "--replay-window-ms <ms>",
      "how long the reply is replayed",
      wholeNumber,
      defaultReplayWindowMs,
    )
    .option(
      "--dedupe-window-ms <ms>",
      "how long the key is remembered",
      wholeNumber,
      defaultDedupeWindowMs,
    )
    .action(async (key: string, given: GivenResolution) => {
      const { completed: file, notExecuted, replayWindowMs, dedupeWindowMs } = given;
      if ((file === undefined) === (notExecuted !== true))
        throw usageError("Say either --completed FILE or --not-executed.");
      if (dedupeWindowMs < replayWindowMs)
        throw usageError("--dedupe-window-ms must not be shorter than --replay-window-ms.");
      const { runCompleted, runNotExecuted } = await import("./settle.js");
      const options = settlement(key, given);
      if (file === undefined) await runNotExecuted(options);
      else await runCompleted(options, { file, replayWindowMs, dedupeWindowMs });
    });
}

function addForget(command: Command, env: Environment, settlement: ReadSettlement): void {
  withRedisOptions(command)
    .option("--redis-prefix <text>", "what every name in Redis begins with", "oncekey:")
    .action(async (key: string, given: GivenSettlement & { readonly redisPrefix: string }) => {
      const { runForget } = await import("./settle.js");
      await runForget({
        ...settlement(key, given),
        redisUrl: redisUrlOf(given, env),
        redisPrefix: given.redisPrefix,
      });
    });
}

interface GivenDoctor extends GivenPlace {
  readonly pooler?: "transaction";
  readonly processes: number;
  readonly poolSize: number;
}

function addDoctor(command: Command, env: Environment, called: Called): void {
  withRedisOptions(command)
    .option("--pooler <mode>", "what the application tells postgresStore: transaction", pooler)
    .option("--processes <n>", "how many processes of the application there are", positiveNumber, 1)
    .option(
      "--pool-size <n>",
      "the max of the pool that each gives to the store",
      positiveNumber,
      10,
    )
    .action(async (given: GivenDoctor) => {
      const { runDoctor } = await import("./doctor.js");
      const { processes, poolSize } = given;
      called.exitCode = await runDoctor({
        ...readPlace(given, env),
        redisUrl: redisUrlOf(given, env),
        pooler: given.pooler,
        processes,
        poolSize,
      });
    });
}

function withPlaceOptions(command: Command): Command {
  return command
    .option("--database-url <url>", "Postgres to work on (default: the variable DATABASE_URL)")
    .option("--schema <name>", "schema that holds the tables", "public")
    .option("--json", "answer in JSON");
}

function withRedisOptions(command: Command): Command {
  return command.option(
    "--redis-url <url>",
    "Redis of the cache (default: the variable REDIS_URL)",
  );
}

function withScope(command: Command): Command {
  return command.option("--scope <scope>", "whose key it is; needed where several scopes have it");
}

function withSettler(command: Command): Command {
  return command
    .requiredOption("--why <text>", "why; kept for ever")
    .option("--by <name>", "who does it; kept for ever (default: the variable USER)");
}

function readPlace(given: GivenPlace, env: Environment) {
  const databaseUrl = given.databaseUrl ?? env["DATABASE_URL"] ?? "";
  if (databaseUrl === "")
    throw usageError("Which database? Give --database-url, or set DATABASE_URL.");
  return { databaseUrl, schema: given.schema, json: given.json === true };
}

function redisUrlOf(given: GivenPlace, env: Environment): string | undefined {
  const url = given.redisUrl ?? env["REDIS_URL"] ?? "";
  return url === "" ? undefined : url;
}

function readSettler(given: GivenSettlement, env: Environment): string {
  const by = given.by ?? env["USER"] ?? env["LOGNAME"] ?? "";
  if (by.trim() === "") throw usageError("Who are you? Give --by, since it is kept with the key.");
  return by;
}

function readWhy({ why }: GivenSettlement): string {
  if (why.trim() === "") throw usageError("--why must say why.");
  return why;
}

/** Above this an integer column or a timer could not hold it. */
const mostNumber = 2 ** 31 - 1;

function wholeNumber(text: string): number {
  if (!/^\d{1,13}$/.test(text)) throw new InvalidArgumentError("It must be a whole number.");
  return Number(text);
}

function positiveNumber(text: string): number {
  const number = wholeNumber(text);
  if (number < 1 || number > mostNumber)
    throw new InvalidArgumentError(`It must be from 1 to ${mostNumber}.`);
  return number;
}

function pooler(text: string): "transaction" {
  if (text !== "transaction") throw new InvalidArgumentError("It must be transaction.");
  return text;
}
