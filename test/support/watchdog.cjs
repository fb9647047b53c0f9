"use strict";

/**
 * Outlives the test process that started it by a moment, and ends what that process left behind.
 *
 * Its standard input is a pipe held by the test process. The kernel closes that pipe however the test process
 * ends, kill -9 included, so nothing here depends on exit handlers. It ends only pids it was told about.
 *
 * Lines: `pid <n>`, `forget <n>`, `directory <path>`, `kept <path>`.
 */
const { rmSync } = require("node:fs");
const { createInterface } = require("node:readline");

const graceMs = 1_500;
const pids = new Set();
const directories = new Set();

function signal(pid, name) {
  try {
    process.kill(pid, name);
    return true;
  } catch {
    return false;
  }
}

const lines = createInterface({ input: process.stdin });
lines.on("line", (line) => {
  const space = line.indexOf(" ");
  const [word, value] = [line.slice(0, space), line.slice(space + 1)];
  if (word === "pid") pids.add(Number(value));
  if (word === "forget") pids.delete(Number(value));
  if (word === "directory") directories.add(value);
  if (word === "kept") directories.delete(value);
});
lines.on("close", () => {
  // SIGQUIT is the immediate shutdown of Postgres, which then ends its own children; a frozen process sees it
  // only once continued.
  for (const pid of pids) {
    signal(pid, "SIGQUIT");
    signal(pid, "SIGCONT");
  }
  const deadline = performance.now() + graceMs;
  const timer = setInterval(() => {
    const left = [...pids].filter((pid) => signal(pid, 0));
    if (left.length > 0 && performance.now() < deadline) return;
    clearInterval(timer);
    for (const pid of left) signal(pid, "SIGKILL");
    for (const directory of directories) rmSync(directory, { recursive: true, force: true });
  }, 20);
});
for (const name of ["SIGINT", "SIGTERM", "SIGHUP"]) process.on(name, () => {});
