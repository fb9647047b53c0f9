/**
 * `oncekey doctor`. Owns: that a server that cannot be reached is a finding like any other. Must never print a URL, which holds
 * a password.
 */
import { examinePooler, examinePostgres } from "../ops.js";
import type { Finding } from "../ops.js";
import { openPool } from "./connect.js";
import type { PlaceOptions } from "./connect.js";
import { CommandError, exitCodes } from "./exit.js";
import { print, printJson } from "./words.js";

export interface DoctorOptions extends PlaceOptions {
  readonly redisUrl: string | undefined;
  readonly pooler: "transaction" | undefined;
  readonly processes: number;
  readonly poolSize: number;
}

/** Answers the exit code. */
export async function runDoctor(options: DoctorOptions): Promise<number> {
  const findings = [
    ...(await examine("postgres", () => examineDatabase(options))),
    ...(await examine("redis", () => examineCache(options.redisUrl))),
  ];
  const problems = findings.filter(({ level }) => level === "problem").length;
  const warnings = findings.filter(({ level }) => level === "warning").length;
  if (options.json) printJson({ problems, warnings, findings });
  else print(inWords(findings, problems, warnings));
  return problems === 0 ? exitCodes.ok : exitCodes.foundProblem;
}

async function examine(
  area: "postgres" | "redis",
  work: () => Promise<readonly Finding[]>,
): Promise<readonly Finding[]> {
  try {
    return await work();
  } catch (error) {
    // A wrong command line and a package that is not there say nothing of a server.
    if (error instanceof CommandError) throw error;
    if ((error as { code?: unknown }).code === "ERR_MODULE_NOT_FOUND") throw error;
    const words = error instanceof Error && error.message !== "" ? error.message : String(error);
    const advice =
      area === "postgres"
        ? "Nothing works without Postgres."
        : "Everything works without Redis, and more slowly.";
    return [{ area, name: "connection", level: "problem", seen: words, advice }];
  }
}

async function examineDatabase(options: DoctorOptions): Promise<readonly Finding[]> {
  const pool = openPool(options.databaseUrl);
  try {
    return [
      ...(await examinePostgres({ ...options, pool, wallMs: () => Date.now() })),
      ...(await examinePooler({ ...options, pool })),
    ];
  } finally {
    await pool.end();
  }
}

async function examineCache(redisUrl: string | undefined): Promise<readonly Finding[]> {
  if (redisUrl === undefined) return [];
  const { withRedis } = await import("./connect-redis.js");
  const { examineRedis } = await import("../ops.js");
  return withRedis(redisUrl, (client) =>
    examineRedis({ client, monotonicMs: () => performance.now() }),
  );
}

const marks = { ok: "ok     ", warning: "warning", problem: "PROBLEM" };

function inWords(findings: readonly Finding[], problems: number, warnings: number): string {
  const lines = findings.flatMap(({ area, name, level, seen, advice }) => [
    `${marks[level]}  ${area}: ${name}: ${seen}`,
    ...(advice === undefined ? [] : [`         ${advice}`]),
  ]);
  const redis = findings.some(({ area }) => area === "redis")
    ? ""
    : "\nNo Redis was looked at (--redis-url or REDIS_URL).";
  const count = (number: number, word: string): string =>
    `${number} ${word}${number === 1 ? "" : "s"}`;
  return `${lines.join("\n")}\n${redis}\n${count(problems, "problem")}, ${count(warnings, "warning")}.`;
}
