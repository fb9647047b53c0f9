/** The command line as a process. */
import { join } from "node:path";

import { compiledTree } from "../support/compiled-tree.js";
import { exited, spawnChild } from "../support/processes.js";

export type Outcome = { code: number | null; stdout: string; stderr: string };

/** Runs `oncekey` as a process of its own, with no variable of this one but PATH. */
export async function oncekey(
  args: readonly string[],
  env: Record<string, string> = {},
  { tree = compiledTree(), input = "" }: { tree?: string; input?: string } = {},
): Promise<Outcome> {
  const child = spawnChild(process.execPath, [join(tree, "dist/esm/cli/main.js"), ...args], {
    env: { PATH: process.env["PATH"], ...env },
    stdio: ["pipe", "pipe", "pipe"],
  });
  let [stdout, stderr] = ["", ""];
  child.stdout?.on("data", (chunk: Buffer) => (stdout += chunk.toString()));
  child.stderr?.on("data", (chunk: Buffer) => (stderr += chunk.toString()));
  // A command that reads nothing has ended before it is told anything.
  child.stdin?.on("error", () => undefined);
  child.stdin?.end(input);
  const closed = new Promise((resolve) => child.once("close", resolve));
  await exited(child, 20_000);
  await closed;
  return { code: child.exitCode, stdout, stderr };
}
