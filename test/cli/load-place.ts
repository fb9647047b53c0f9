/** Files to load and tables to load them into. */
import { writeFileSync } from "node:fs";
import { join } from "node:path";

import { Command, CommanderError } from "commander";
import type pg from "pg";

import { addOperatorCommands } from "../../src/cli/commands.js";
import { exitCodes } from "../../src/cli/exit.js";
import { temporaryDirectory } from "../support/processes.js";
import type { Outcome } from "./oncekey.js";

export type Click = { event_id: string; merchant: string; amount: number; version: number };

/** One event of each number; every tenth one comes twice. */
export function clicks(count: number, version = 1): Click[] {
  return Array.from({ length: count }, (_, index) => {
    const id = index % 10 === 9 ? index - 5 : index;
    return { event_id: `e${id}`, merchant: `m${id % 7}`, amount: id * 3, version };
  });
}

export function distinct(count: number): number {
  return new Set(clicks(count).map(({ event_id }) => event_id)).size;
}

export function ndjson(rows: readonly object[]): string {
  return rows.map((row) => `${JSON.stringify(row)}\n`).join("");
}

export function csv(rows: readonly Click[]): string {
  const lines = rows.map((row) => `${row.event_id},${row.merchant},${row.amount},${row.version}\n`);
  return `event_id,merchant,amount,version\n${lines.join("")}`;
}

/** Writes a file into a new folder; answers its path. */
export function fileOf(name: string, content: string | Buffer): string {
  const path = join(temporaryDirectory("load"), name);
  writeFileSync(path, content);
  return path;
}

export const clicksTable =
  "CREATE TABLE clicks (event_id text PRIMARY KEY, merchant text, amount bigint, version bigint)";

/** Over all rows and columns, whatever the order in which they are stored. */
export async function checksum(pool: pg.Pool, table = "clicks"): Promise<string> {
  const { rows } = await pool.query<{ sum: string }>(
    `SELECT concat(count(*), ' ', md5(string_agg(t::text, E'\\n' ORDER BY t::text COLLATE "C"))) AS sum FROM ${table} t`,
  );
  return rows[0]?.sum ?? "";
}

/** Runs a command in this process, which takes a tenth of the time; what is told to the terminal is caught. */
export async function oncekeyHere(
  args: readonly string[],
  env: Record<string, string>,
): Promise<Outcome> {
  const said = { stdout: "", stderr: "" };
  const spies = (["stdout", "stderr"] as const).map((name) =>
    jest.spyOn(process[name], "write").mockImplementation((text: string | Uint8Array) => {
      said[name] += String(text);
      return true;
    }),
  );
  const program = new Command("oncekey").exitOverride();
  const called = { name: "", exitCode: exitCodes.ok as number };
  addOperatorCommands(program, env, called);
  let code: number;
  try {
    await program.parseAsync([...args], { from: "user" });
    code = called.exitCode;
  } catch (error) {
    const { exitCode = exitCodes.failed, message } = error as Error & { exitCode?: number };
    code = error instanceof CommanderError ? exitCodes.usage : exitCode;
    said.stderr += `${message}\n`;
  } finally {
    for (const spy of spies) spy.mockRestore();
  }
  return { code, ...said };
}
