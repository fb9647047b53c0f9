/**
 * Runs the shell blocks of a page one after the other, as a reader would: in bash, with the real curl and the real command
 * line of oncekey. What would change the machine (npm, docker) and what must not find other servers (pgrep) is replaced by a
 * program that checks what it was told.
 */
import { spawn } from "node:child_process";
import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";

import { compiledTree } from "../support/compiled-tree.js";

export type Shell = {
  /** Runs a block and answers what it printed. `pid`: what `pgrep` finds. */
  run(
    block: string,
    options: { url: string; databaseUrl: string; pid: number },
  ): Promise<ShellResult>;
  close(): void;
};

export type ShellResult = {
  readonly code: number | null;
  readonly output: string;
  /** The commands that were replaced, with their arguments. */
  readonly replaced: readonly string[];
};

const timeoutMs = 20_000;

/** Commands are told apart by a line of JSON on a stream of their own. */
const shim = (name: string, more = ""): string => `#!/usr/bin/env bash
printf '%s\\n' "${name} $*" >&3
${more}`;

export function openShell(): Shell {
  mkdirSync(".cache", { recursive: true });
  const folder = mkdtempSync(resolve(".cache", "shell-"));
  const main = join(compiledTree(), "dist/esm/cli/main.js");
  const programs = {
    npm: shim("npm"),
    docker: shim("docker"),
    pgrep: shim("pgrep", 'printf "%s\\n" "$SERVER_PID"'),
    npx: shim("npx", `[ "$1" = oncekey ] && shift && exec "${process.execPath}" "${main}" "$@"`),
  };
  for (const [name, text] of Object.entries(programs)) {
    writeFileSync(join(folder, name), text);
    chmodSync(join(folder, name), 0o755);
  }
  return {
    run: (block, { url, databaseUrl, pid }) =>
      new Promise((done, fail) => {
        const text = block.replaceAll("http://localhost:3000", url);
        const child = spawn("bash", ["-c", `set -eu\n${text}`], {
          cwd: folder,
          stdio: ["ignore", "pipe", "pipe", "pipe"],
          timeout: timeoutMs,
          env: {
            ...process.env,
            PATH: `${folder}:${process.env["PATH"] ?? ""}`,
            DATABASE_URL: databaseUrl,
            SERVER_PID: String(pid),
            // Locales change what curl and wc print.
            LC_ALL: "C",
          },
        });
        let output = "";
        let told = "";
        const [, out, err, third] = child.stdio;
        out?.on("data", (chunk: Buffer) => (output += chunk.toString()));
        err?.on("data", (chunk: Buffer) => (output += chunk.toString()));
        third?.on("data", (chunk: Buffer) => (told += chunk.toString()));
        child.on("error", fail);
        child.on("close", (code) =>
          done({ code, output, replaced: told.split("\n").filter(Boolean) }),
        );
      }),
    close: () => rmSync(folder, { recursive: true, force: true }),
  };
}
