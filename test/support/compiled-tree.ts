/**
 * The sources and tests as JavaScript that a plain `node` child can run, so that tests of whole processes need no
 * build of their own and never run a stale one: the folder is named after the content of every file in it.
 */
import { createHash, randomBytes } from "node:crypto";
import {
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { dirname, join, resolve } from "node:path";

import { transformSync } from "@swc/core";

const root = resolve(".");
const cache = join(root, ".cache", "compiled");
/** Read by the sources relative to the package's root. */
const copied = ["package.json", "openapi.yaml"];
const keptTrees = 5;
/** A younger tree may belong to a run that is going on beside this one. */
const keptMs = 3_600_000;

let compiled: string | undefined;

function typescriptFiles(folder: string): string[] {
  if (!existsSync(folder)) return [];
  return readdirSync(folder, { recursive: true, encoding: "utf8" })
    .filter((name) => name.endsWith(".ts") && !name.endsWith(".test.ts") && !name.endsWith(".d.ts"))
    .map((name) => join(folder, name))
    .sort();
}

function removeOld(): void {
  const trees = readdirSync(cache)
    .map((name) => join(cache, name))
    .map((path) => ({ path, used: statSync(path).mtimeMs }))
    .sort((a, b) => b.used - a.used);
  for (const { path, used } of trees.slice(keptTrees))
    if (Date.now() - used > keptMs) rmSync(path, { recursive: true, force: true });
}

/**
 * Answers a folder laid out as the package is: `dist/esm/**` from src, `test/**` and `bench/**` as they are, `src` a link to
 * `dist/esm`. Type errors do not matter here; `npm run typecheck` finds them.
 */
export function compiledTree(): string {
  if (compiled !== undefined) return compiled;
  const files = ["src", "test", "bench"].flatMap(typescriptFiles);
  const contents = new Map(
    [...files, ...copied.filter((file) => existsSync(file))].map((file) => [
      file,
      readFileSync(file, "utf8"),
    ]),
  );
  const hash = createHash("sha256");
  for (const [file, content] of contents) hash.update(`${file}\0${content.length}\0${content}`);
  const tree = join(cache, hash.digest("hex").slice(0, 16));
  if (existsSync(tree)) utimesSync(tree, new Date(), new Date());
  else write(tree, contents);
  removeOld();
  compiled = tree;
  return tree;
}

function write(tree: string, contents: Map<string, string>): void {
  const unfinished = `${tree}.${randomBytes(4).toString("hex")}`;
  for (const [file, content] of contents) {
    const path = join(unfinished, file.replace(/^src\//, "dist/esm/").replace(/\.ts$/, ".js"));
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, file.endsWith(".ts") ? transpile(file, content) : content);
  }
  if (existsSync(join(unfinished, "dist/esm"))) symlinkSync("dist/esm", join(unfinished, "src"));
  for (const file of ["test/support/watchdog.cjs"]) cpSync(file, join(unfinished, file));
  try {
    renameSync(unfinished, tree);
  } catch (error) {
    rmSync(unfinished, { recursive: true, force: true });
    if (!existsSync(tree)) throw error;
  }
}

function transpile(file: string, content: string): string {
  return transformSync(content, {
    filename: file,
    swcrc: false,
    sourceMaps: "inline",
    jsc: { target: "es2022", parser: { syntax: "typescript" } },
    module: { type: "es6" },
  }).code;
}
