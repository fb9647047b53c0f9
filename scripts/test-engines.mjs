/**
 * Runs mergeSink against DuckDB, SQLite and MariaDB. Their drivers are large or compiled from source, so they are installed into
 * .cache/engines, by npm as it is configured, and not with the package's own dependencies. MariaDB is unpacked from Debian's packages.
 */
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";

const folder = ".cache/engines";
const wanted = { "@duckdb/node-api": "1.5.6-r.1", "better-sqlite3": "^12.11.1", mysql2: "^3.24.6" };

/** Output goes to the terminal; a failure ends the script with its exit code. */
function run(command, args, options = {}) {
  const { status } = spawnSync(command, args, { stdio: "inherit", ...options });
  if (status !== 0) process.exit(status ?? 1);
}

if (!Object.keys(wanted).every((name) => existsSync(join(folder, "node_modules", name)))) {
  mkdirSync(folder, { recursive: true });
  writeFileSync(
    join(folder, "package.json"),
    JSON.stringify({ private: true, dependencies: wanted }),
  );
  run("npm", ["install", "--no-audit", "--no-fund"], { cwd: folder });
}
run(process.execPath, [
  "node_modules/jest/bin/jest.js",
  "--config",
  "test/engines/jest.config.mjs",
  ...process.argv.slice(2),
]);
