/**
 * Checks the package as npm would publish it: packs it, reads the tarball with publint and are-the-types-wrong,
 * installs it into an empty project, loads every entry by import and by require, and uses it as scripts/package-matrix.mjs
 * says.
 *
 * Needs a build. The first copy borrows this project's node_modules for its dependencies, so that every optional peer is
 * there; the projects of the matrix have their own.
 */
import { spawnSync } from "node:child_process";
import {
  cpSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");
const manifest = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
const work = mkdtempSync(join(tmpdir(), "oncekey-package-"));
let failed = false;

function run(name, command, args, options = {}) {
  console.log(`-- ${name}`);
  const { status } = spawnSync(command, args, { cwd: root, stdio: "inherit", ...options });
  if (status !== 0) {
    console.error(`${name} failed (${status})`);
    failed = true;
  }
}

const tool = (name) => join(root, "node_modules/.bin", name);

try {
  run("pack", "npm", ["pack", "--silent", "--ignore-scripts", "--pack-destination", work]);
  const tarball = join(work, `${manifest.name}-${manifest.version}.tgz`);
  run("publint", tool("publint"), ["run", tarball, "--strict"]);
  run("are the types wrong", tool("attw"), [tarball, "--profile", "node16", "--format", "ascii"]);

  run("unpack", "tar", ["-xzf", tarball, "-C", work]);
  const installed = join(work, "project/node_modules", manifest.name);
  mkdirSync(dirname(installed), { recursive: true });
  cpSync(join(work, "package"), installed, { recursive: true });
  // Node resolves a dependency from the real path of the file that asks for it, walking up from there.
  symlinkSync(join(root, "node_modules"), join(work, "node_modules"), "dir");

  const entries = Object.keys(manifest.exports)
    .filter((key) => key !== "./package.json")
    .map((key) => manifest.name + key.slice(1));
  const imports = entries.map((entry) => `await import(${JSON.stringify(entry)}).then(check);`);
  const requires = entries.map((entry) => `check(require(${JSON.stringify(entry)}));`);
  const check =
    "const check = (names) => { if (Object.keys(names).length === 0) throw new Error('nothing is exported'); };";
  writeFileSync(join(work, "project/load.mjs"), [check, ...imports].join("\n"));
  writeFileSync(join(work, "project/load.cjs"), [check, ...requires].join("\n"));
  for (const file of ["load.mjs", "load.cjs"])
    run(file, process.execPath, [file], { cwd: join(work, "project") });
  run("consumers", process.execPath, [join(root, "scripts/package-matrix.mjs"), tarball]);
  run("knip", tool("knip"), ["--no-progress"]);
} finally {
  rmSync(work, { recursive: true, force: true });
}
process.exit(failed ? 1 : 0);
