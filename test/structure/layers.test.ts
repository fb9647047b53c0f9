/** Holds the sources against the layer table and the countable rules of the house style. */
import { readFileSync } from "node:fs";
import { basename } from "node:path";

import { parseSource, readSources, resolveImport, type SourceFile } from "./source-files.js";

const layers: Record<string, readonly string[]> = {
  core: [],
  client: [],
  generated: [],
  stores: ["core", "generated"],
  http: ["core"],
  steps: ["core", "stores", "generated"],
  pipeline: ["core", "stores", "generated"],
  workers: ["core", "stores", "steps", "pipeline"],
  ops: ["core", "stores"],
  server: [],
  cli: ["server"],
};

/** Programs use the package as anybody else would: by the files that package.json exports. */
const programs = ["cli", "server"];
const clientMayImport = ["core/key.ts", "core/errors.ts"];
const drivers = ["pg", "ioredis", "express", "fastify"];
/** The client's retry timing is allowed a clock and jitter; it decides nothing about keys. */
const pureLayers = ["core", "stores", "http", "steps", "pipeline", "workers"];
const forbiddenNames = /^(utils?|helpers?|common|managers?)$|[-.](utils?|helpers?|manager)$/;
const longest = 400;

function publicEntries(): string[] {
  const { exports } = JSON.parse(readFileSync("package.json", "utf8")) as {
    exports: Record<string, string | { import: { default: string } }>;
  };
  return Object.values(exports).flatMap((entry) =>
    typeof entry === "string"
      ? []
      : [entry.import.default.replace("./dist/esm/", "").replace(/\.js$/, ".ts")],
  );
}

/** The folder under src; files directly in src are public entries and may import every layer below them. */
function layerOf(path: string): string | undefined {
  return path.includes("/") ? path.slice(0, path.indexOf("/")) : undefined;
}

function importFaults(file: SourceFile, entries: readonly string[]): string[] {
  const layer = layerOf(file.path);
  const isProgram = layer !== undefined && programs.includes(layer);
  return file.imports.flatMap(({ from, typeOnly }) => {
    const told = (why: string): string[] => [`${file.path} imports ${from}: ${why}`];
    const target = resolveImport(file.path, from);
    if (target === undefined) {
      const name = from.split("/")[0] as string;
      if (drivers.includes(name) && !typeOnly && !isProgram)
        return told("a driver, and not by `import type`");
      if (layer === "core" && from.startsWith("node:") && from !== "node:crypto")
        return told("core may use node:crypto alone");
      if (layer === "client" && from.startsWith("node:"))
        return told("the client runs in browsers");
      return [];
    }
    if (!from.endsWith(".js")) return told("a relative import ends in .js");
    const targetLayer = layerOf(target);
    if (layer === undefined)
      return programs.includes(targetLayer ?? "") ? told("an entry never imports a program") : [];
    if (targetLayer === layer) return [];
    if (layer === "client")
      return clientMayImport.includes(target) ? [] : told("not for the client");
    if (targetLayer !== undefined && layers[layer]?.includes(targetLayer)) return [];
    if (isProgram && entries.includes(target)) return [];
    return told(`${layer} may import ${layers[layer]?.join(", ") || "no other layer"}`);
  });
}

function cycles(files: readonly SourceFile[]): string[] {
  const graph = new Map(
    files.map((file) => [
      file.path,
      file.imports.flatMap(({ from }) => resolveImport(file.path, from) ?? []),
    ]),
  );
  const found: string[] = [];
  const done = new Set<string>();
  const walk = (path: string, trail: readonly string[]): void => {
    if (trail.includes(path)) found.push([...trail.slice(trail.indexOf(path)), path].join(" > "));
    else if (!done.has(path)) {
      for (const next of graph.get(path) ?? []) walk(next, [...trail, path]);
      done.add(path);
    }
  };
  for (const path of graph.keys()) walk(path, []);
  return found;
}

function nameFaults({ path }: SourceFile): string[] {
  const parts = path.replace(/\.ts$/, "").split("/");
  const wrong = parts.filter((part) => forbiddenNames.test(part) || !/^[a-z0-9-]+$/.test(part));
  return wrong.map((part) => `${path}: a file or folder named ${part}`);
}

function styleFaults(file: SourceFile): string[] {
  if (layerOf(file.path) === "generated") return [];
  const faults = file.faults.map((fault) => `${file.path}: ${fault}`);
  if (file.lines > longest) faults.push(`${file.path}: ${file.lines} lines`);
  const isPort = ["clock.ts", "ports.ts"].includes(basename(file.path));
  if (pureLayers.includes(layerOf(file.path) ?? "") && !isPort)
    faults.push(...file.impurities.map((what) => `${file.path}: ${what} outside a port`));
  return faults;
}

const sources = readSources();

test("every folder of src is a layer", () => {
  const folders = new Set(sources.flatMap(({ path }) => layerOf(path) ?? []));
  expect([...folders].filter((folder) => !(folder in layers))).toEqual([]);
});

test("layers import what the table allows, and drivers as types only", () => {
  const entries = publicEntries();
  expect(sources.flatMap((file) => importFaults(file, entries))).toEqual([]);
});

test("there is no import cycle", () => {
  expect(cycles(sources)).toEqual([]);
});

test("names, lengths, exports, types, clocks and randomness follow the style", () => {
  expect(sources.flatMap(nameFaults)).toEqual([]);
  expect(sources.flatMap(styleFaults)).toEqual([]);
});

describe("the checks themselves find", () => {
  test.each([
    ["core/a.ts", 'import { x } from "../stores/b.js";'],
    ["core/a.ts", 'import type { x } from "../http/b.js";'],
    ["core/a.ts", 'import { readFile } from "node:fs";'],
    ["core/a.ts", 'import { x } from "./b";'],
    ["http/a.ts", 'export * from "../stores/b.js";'],
    ["http/a.ts", 'type T = import("../stores/b.js").B;'],
    ["http/a.ts", 'const b = await import("../stores/b.js");'],
    ["stores/a.ts", 'import pg from "pg";'],
    ["index.ts", 'import { Redis } from "ioredis";'],
    ["index.ts", 'import { start } from "./server/main.js";'],
    ["client/a.ts", 'import { x } from "../core/decide.js";'],
    ["client/a.ts", 'import { x } from "node:crypto";'],
    ["server/a.ts", 'import { x } from "../core/decide.js";'],
  ])("%s with %s", (path, text) => {
    expect(importFaults(parseSource(path, text), ["index.ts"])).toHaveLength(1);
  });

  test.each([
    ["core/a.ts", "export default 1;"],
    ["core/a.ts", "export const a = b as any;"],
    ["core/a.ts", "export function f(a: any[]) {}"],
    ["core/a.ts", "Date.now();"],
    ["stores/a.ts", "Math.random();"],
    ["http/a.ts", "new Date();"],
    ["core/a.ts", "\n".repeat(401)],
  ])("%s with %j", (path, text) => {
    expect(styleFaults(parseSource(path, text))).toHaveLength(1);
  });

  test("a cycle and a forbidden name", () => {
    const a = parseSource("core/a.ts", 'import { b } from "./b.js";');
    const b = parseSource("core/b.ts", 'import type { a } from "./a.js";');
    expect(cycles([a, b])).toEqual(["core/a.ts > core/b.ts > core/a.ts"]);
    expect(nameFaults(parseSource("core/utils.ts", ""))).toHaveLength(1);
  });

  test("nothing in what is allowed", () => {
    const text = 'import { x } from "../index.js"; import pg from "pg"; new Date(0);';
    const file = parseSource("server/a.ts", text);
    expect([
      ...importFaults(file, ["index.ts"]),
      ...styleFaults(file),
      ...nameFaults(file),
    ]).toEqual([]);
  });
});
