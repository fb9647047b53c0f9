/**
 * Uses a packed tarball as its users do: in projects of their own with Express 4 and 5, from JavaScript and TypeScript, as ES
 * modules and as CommonJS, on each supported Node. Every program serves one idempotent route on a real socket; a request is
 * sent twice, must be answered with the same bytes and must have run once; another request under its key must be refused.
 *
 * `node scripts/package-matrix.mjs <tarball>`; without one it packs the build that is there. The versions of Node come as
 * npm packages and are kept in .cache/nodes. One that cannot be had is named in the output, and counts as a failure only
 * where CHECK_NODES=all says so.
 */
import { spawn, spawnSync } from "node:child_process";
import { randomUUID } from "node:crypto";
import { once } from "node:events";
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");
const manifest = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
const nodeMajors = [20, 22, 24];
/** Of one program from its start to its end; each takes less than a second. */
const programLimitMs = 30_000;

const entries = Object.keys(manifest.exports)
  .filter((key) => key !== "./package.json")
  .map((key) => manifest.name + key.slice(1));

let failures = 0;
function fail(what) {
  failures += 1;
  console.error(`FAILED: ${what}`);
}

function execute(command, args, cwd) {
  const { status, stdout, stderr, error } = spawnSync(command, args, {
    cwd,
    encoding: "utf8",
    // The configuration of whoever runs this script must not install for another project.
    env: { ...process.env, npm_config_package_lock: "false", npm_config_update_notifier: "false" },
    shell: process.platform === "win32",
  });
  return { ok: status === 0, output: `${stdout ?? ""}${stderr ?? ""}${error?.message ?? ""}` };
}

/** Nothing is saved, and no package's scripts run. */
function install(folder, specs) {
  if (!existsSync(join(folder, "package.json")))
    writeFileSync(join(folder, "package.json"), '{ "private": true }\n');
  const flags = ["--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline", "--silent"];
  return execute("npm", ["install", ...flags, ...specs], folder);
}

/** The packages that the npm package `node` itself would choose from in its install script. */
function nodePackages() {
  const { platform, arch } = process;
  const system = platform === "win32" ? "win" : platform;
  return [`node-${system}-${arch}`, `node-bin-${system}-${arch}`];
}

function versionOf(program) {
  const { ok, output } = execute(program, ["--version"]);
  return ok ? output.trim() : undefined;
}

/** The program, or undefined where this platform has no such package, or cannot run it. */
function findNode(major) {
  const isIt = (program) =>
    existsSync(program) && versionOf(program)?.startsWith(`v${major}.`) === true;
  const folder = join(root, ".cache/nodes", String(major));
  const file = process.platform === "win32" ? "bin/node.exe" : "bin/node";
  const programs = nodePackages().map((name) => join(folder, "node_modules", name, file));
  const kept = programs.find(isIt);
  if (kept !== undefined) return kept;
  mkdirSync(folder, { recursive: true });
  for (const [index, name] of nodePackages().entries()) {
    const { ok } = install(folder, [`${name}@${major}`]);
    if (ok && isIt(programs[index])) return programs[index];
  }
  return isIt(process.execPath) ? process.execPath : undefined;
}

function pack(folder) {
  const { ok, output } = execute(
    "npm",
    ["pack", "--silent", "--ignore-scripts", "--pack-destination", folder],
    root,
  );
  if (!ok) throw new Error(`npm pack failed:\n${output}`);
  return join(folder, `${manifest.name}-${manifest.version}.tgz`);
}

/** A project with one major version of Express, and everything else as this project's own tests have it. */
function makeProject(work, tarball, expressRange) {
  const major = expressRange.replace(/\D*(\d+).*/, "$1");
  const folder = join(work, `express-${major}`);
  mkdirSync(folder);
  const own = ["pg", "@types/pg", "ioredis", "fastify", "@types/node"];
  const installed = install(folder, [
    tarball,
    `express@${expressRange}`,
    `@types/express@${major}`,
    ...own.map((name) => `${name}@${manifest.devDependencies[name]}`),
  ]);
  if (!installed.ok) throw new Error(`npm install for Express ${major}:\n${installed.output}`);
  const express = JSON.parse(
    readFileSync(join(folder, "node_modules/express/package.json"), "utf8"),
  );
  for (const file of ["program.mjs", "program.cjs", "typed.mts"])
    copyFileSync(join(root, "scripts/consumer", file), join(folder, file));
  // The same text in the other module system: the compiler makes `require` of its imports.
  copyFileSync(join(folder, "typed.mts"), join(folder, "typed.cts"));
  writeEntries(folder);
  return { folder, name: `Express ${express.version}` };
}

/** Programs that load every entry and expect names in it. */
function writeEntries(folder) {
  const check = [
    "for (const [name, entry] of Object.entries(entries))",
    "  if (Object.keys(entry).length === 0) throw new Error(`${name} exports nothing`);",
    "",
  ].join("\n");
  const listed = entries.map((entry, index) => `  ${JSON.stringify(entry)}: entry${index},\n`);
  const object = `const entries = {\n${listed.join("")}};\n`;
  const imports = entries.map((entry, i) => `import * as entry${i} from "${entry}";\n`).join("");
  const requires = entries.map((entry, i) => `const entry${i} = require("${entry}");\n`).join("");
  writeFileSync(join(folder, "entries.mjs"), imports + object + check);
  writeFileSync(join(folder, "entries.cjs"), requires + object + check);
  writeFileSync(join(folder, "entries-typed.mts"), `${imports}export ${object}${check}`);
  writeFileSync(join(folder, "entries-typed.cts"), `${imports}export ${object}${check}`);
}

/** Each as strict as it can be: our declarations and those of our dependencies are checked too. */
const compilations = [
  { module: "node16", moduleResolution: "node16", files: ["*.mts", "*.cts"], emits: false },
  { module: "preserve", moduleResolution: "bundler", files: ["*.mts"], emits: false },
  { module: "nodenext", moduleResolution: "nodenext", files: ["*.mts", "*.cts"], emits: true },
];

function compile({ folder, name }) {
  const typescript = join(root, "node_modules/typescript");
  const { bin } = JSON.parse(readFileSync(join(typescript, "package.json"), "utf8"));
  for (const { module, moduleResolution, files, emits } of compilations) {
    const compilerOptions = {
      target: "es2022",
      module,
      moduleResolution,
      strict: true,
      exactOptionalPropertyTypes: true,
      skipLibCheck: false,
      types: ["node"],
      noEmit: !emits,
    };
    const file = join(folder, `tsconfig.${moduleResolution}.json`);
    writeFileSync(file, JSON.stringify({ compilerOptions, include: files }));
    const args = [join(typescript, bin.tsc), "--project", file];
    const { ok, output } = execute(process.execPath, args, folder);
    if (ok) console.log(`   ${name}: types by ${moduleResolution}`);
    else fail(`${name}: types by ${moduleResolution}\n${output.slice(0, 8_000)}`);
  }
}

/** Runs a program, hands its port to `use`, and expects it to end by itself and with 0. */
async function withProgram(node, folder, file, use) {
  const child = spawn(node, [file], { cwd: folder, stdio: ["ignore", "pipe", "pipe"] });
  const watchdog = setTimeout(() => child.kill("SIGKILL"), programLimitMs);
  let errors = "";
  child.stderr.on("data", (chunk) => (errors += chunk));
  const ended = once(child, "exit");
  try {
    const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
    const { value: port } = await lines.next();
    if (port === undefined) throw new Error("it did not listen");
    await use(`http://127.0.0.1:${port}`);
    const [code, signal] = await ended;
    if (code !== 0) throw new Error(`it ended with ${code ?? signal}`);
    if (errors !== "") throw new Error("it wrote to standard error");
  } catch (cause) {
    throw new Error(`${cause.message}\n${errors}`, { cause });
  } finally {
    clearTimeout(watchdog);
    child.kill("SIGKILL");
  }
}

function expectEqual(found, expected, what) {
  if (found !== expected) throw new Error(`${what}: ${found} and not ${expected}`);
}

/** The promise, as somebody would try it with curl. */
async function tryPromise(url) {
  const key = randomUUID();
  const order = async (item) => {
    const response = await fetch(`${url}/orders`, {
      method: "POST",
      headers: { "content-type": "application/json", "idempotency-key": key },
      body: JSON.stringify({ item }),
    });
    const { status, headers } = response;
    return { status, replayed: headers.get("idempotent-replayed"), text: await response.text() };
  };
  const runs = async () => (await fetch(`${url}/runs`)).text();

  const first = await order("mug");
  expectEqual(first.status, 201, "the first answer");
  expectEqual(first.replayed, null, "the mark of the first answer");
  expectEqual(JSON.parse(first.text).key, key, "the key in the handler");
  const second = await order("mug");
  expectEqual(second.status, 201, "the replay");
  expectEqual(second.replayed, "true", "the mark of the replay");
  expectEqual(second.text, first.text, "the bytes of the replay");
  expectEqual((await order("shirt")).status, 422, "another request under the key");
  expectEqual(await runs(), "1", "runs of the handler");
  await fetch(`${url}/stop`, { method: "POST" });
}

async function runOn(node, { folder, name }) {
  const label = `${name} on Node ${versionOf(node)}`;
  const before = failures;
  for (const file of ["program.mjs", "program.cjs", "typed.mjs", "typed.cjs"]) {
    try {
      await withProgram(node, folder, file, tryPromise);
    } catch (error) {
      fail(`${label}: ${file}: ${error.message}`);
    }
  }
  for (const file of readdirSync(folder).filter((each) => /^entries.*\.[cm]js$/.test(each))) {
    const { ok, output } = execute(node, [file], folder);
    if (!ok || output !== "") fail(`${label}: ${file}:\n${output}`);
  }
  if (failures === before) console.log(`   ${label}`);
}

const work = mkdtempSync(join(tmpdir(), "oncekey-consumers-"));
try {
  const given = process.argv[2];
  const tarball = given === undefined ? pack(work) : resolve(given);
  const nodes = nodeMajors.map((major) => ({ major, program: findNode(major) }));
  for (const { major, program } of nodes) {
    if (program !== undefined) continue;
    const notice = `Node ${major} cannot be had on ${process.platform} ${process.arch}: NOT checked.`;
    if (process.env["CHECK_NODES"] === "all") fail(notice);
    else console.warn(`   ${notice}`);
  }
  for (const range of manifest.peerDependencies.express.split(" || ")) {
    const project = makeProject(work, tarball, range);
    compile(project);
    for (const { program } of nodes) if (program !== undefined) await runOn(program, project);
  }
} catch (error) {
  fail(error.message);
} finally {
  rmSync(work, { recursive: true, force: true });
}
process.exitCode = failures === 0 ? 0 : 1;
