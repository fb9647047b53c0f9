/**
 * Writes the SQL and Lua files as a TypeScript module, so that neither build has to find files at run time.
 *
 *   node scripts/embed.mjs          writes src/generated/scripts.ts
 *   node scripts/embed.mjs --check  exits 1 where that file is not what it would write
 */
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { basename, dirname, extname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");
const target = join(root, "src/generated/scripts.ts");

/** In the order of their bytes, whatever the locale of the machine; that is also the order of migrations. */
function files(folder, extension) {
  const path = join(root, folder);
  if (!existsSync(path)) return [];
  return readdirSync(path)
    .filter((name) => extname(name) === extension)
    .sort((a, b) => (a < b ? -1 : a > b ? 1 : 0))
    .map((name) => ({
      name: basename(name, extension),
      // A checkout with other line ends must not change a migration's checksum.
      text: readFileSync(join(path, name), "utf8").replaceAll("\r\n", "\n"),
    }));
}

function record(name, entries) {
  const lines = entries.map(
    ({ name: key, text }) => `  ${JSON.stringify(key)}:\n    ${JSON.stringify(text)},\n`,
  );
  return `export const ${name} = {\n${lines.join("")}} as const;\n`;
}

function list(name, entries) {
  const lines = entries.map(
    ({ name: key, text }) =>
      `  {\n    name: ${JSON.stringify(key)},\n    sql: ${JSON.stringify(text)},\n  },\n`,
  );
  return `export const ${name} = [\n${lines.join("")}] as const;\n`;
}

const text = [
  "// Written by scripts/embed.mjs from src/stores/sql and src/stores/lua. Run `npm run embed` after changing those.\n",
  record("sql", files("src/stores/sql", ".sql")),
  list("migrations", files("src/stores/sql/migrations", ".sql")),
  record("lua", files("src/stores/lua", ".lua")),
].join("\n");

if (process.argv.includes("--check")) {
  const present = existsSync(target) ? readFileSync(target, "utf8") : "";
  if (present !== text) {
    console.error("src/generated/scripts.ts is stale: run `npm run embed` and commit the result.");
    process.exit(1);
  }
} else {
  mkdirSync(dirname(target), { recursive: true });
  writeFileSync(target, text);
}
