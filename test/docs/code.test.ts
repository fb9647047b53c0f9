/**
 * The code of the README and of docs: TypeScript is type-checked against the sources and run, SQL is run, data are parsed. A
 * block in a language that nobody runs is an error.
 */
import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { basename, join, resolve } from "node:path";

import { transformSync } from "@swc/core";
import { parse as parseYaml } from "yaml";

import { migrate } from "../../src/stores/postgres.js";
import { compiledTree } from "../support/compiled-tree.js";
import { useDatabase } from "../support/databases.js";
import { freePort } from "../support/processes.js";
import { startProgram } from "../support/server-process.js";
import { redisUrl } from "../support/servers.js";
import { blocksOf, isOutputOf, pages, type Block } from "./documents.js";

jest.setTimeout(60_000);

const blocks = pages.flatMap((file) => blocksOf(file));
const nameOf = (block: Block): string => `${block.file}:${block.line}`;
const of = (language: string) =>
  blocks
    .filter((block) => block.language === language)
    .map((block) => [nameOf(block), block] as const);

const database = useDatabase({
  prepare: async (pool) => {
    await migrate({ pool });
    await pool.query("CREATE TABLE orders (id serial PRIMARY KEY, note text)");
    await pool.query("CREATE TABLE charges (id serial PRIMARY KEY, amount integer)");
  },
});

test("every block is run by a test, here or as a command", () => {
  const unknown = blocks.filter((block, index) => {
    if (["ts", "sql", "json", "yaml", "sh"].includes(block.language)) return false;
    const before = blocks[index - 1];
    return before === undefined || before.file !== block.file || !isOutputOf(before, block);
  });
  expect(unknown.map((block) => `${nameOf(block)} is ${block.language || "nothing"}`)).toEqual([]);
  expect(of("ts").length).toBeGreaterThan(10);
});

/** Names that a fragment may use without importing them. */
const known =
  "express pg Redis createIdempotency isIdempotencyError keepRawBody memoryStore migrate postgresStore redisCache pool app " +
  "idempotent authenticate rateLimit validateOrder createOrder provider api";

/** A block as a module whose `main` runs it: its imports come first, and what it takes for granted from the wrapper. */
function moduleOf(block: Block, wrapper: string, port: number): string {
  const importLine = /^import [^;]*;$/gm;
  const prismaClient = wrapper.replace("docs/programs/wrapper.js", "adapters/prisma/client.js");
  const imports = (block.text.match(importLine) ?? []).join("\n");
  const body = block.text
    .replaceAll(importLine, "")
    // A module's export, inside of a function.
    .replaceAll(/^export const /gm, "const ")
    .replaceAll("listen(3000)", `listen(${port})`)
    .replaceAll("listen({ port: 3000 })", `listen({ port: ${port} })`);
  const granted = known
    .split(" ")
    .filter(
      (name) =>
        new RegExp(`\\b${name}\\b`).test(body) && !new RegExp(`\\b${name}\\b`).test(imports),
    );
  return [
    imports
      .replaceAll('"./your-app.js"', JSON.stringify(wrapper))
      .replaceAll('"./generated/prisma/client.js"', JSON.stringify(prismaClient)),
    `import { ${granted.join(", ")} } from ${JSON.stringify(wrapper)};`,
    `export async function main(): Promise<void> {`,
    body,
    "}",
  ].join("\n");
}

/** What an app that authenticates tells TypeScript. */
const account =
  "declare namespace Express { interface Request { account: { readonly id: string } } }";

const fileName = (block: Block): string =>
  `${basename(block.file, ".md").toLowerCase()}-${block.line}`;

describe("TypeScript", () => {
  let faults: string[];

  beforeAll(() => {
    mkdirSync(".cache", { recursive: true });
    const folder = mkdtempSync(resolve(".cache", "docs-"));
    try {
      for (const [, block] of of("ts"))
        writeFileSync(
          join(folder, `${fileName(block)}.ts`),
          moduleOf(block, "../../test/docs/programs/wrapper.js", 0),
        );
      writeFileSync(join(folder, "account.d.ts"), account);
      const paths = sourcesOfEntries();
      const compilerOptions = { paths, noUnusedLocals: false, noUnusedParameters: false };
      const config = { extends: "../../tsconfig.json", compilerOptions, include: ["*.ts"] };
      writeFileSync(join(folder, "tsconfig.json"), JSON.stringify(config));
      faults = typeFaults(folder);
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  });

  test.each(of("ts"))("%s has the right types", (_name, block) => {
    expect(faults.filter((fault) => fault.includes(`/${fileName(block)}.ts`))).toEqual([]);
  });

  test.each(of("ts"))("%s runs", async (_name, block) => {
    const port = /\blisten\((?:3000|\{ port: 3000 \})\)/.test(block.text) ? await freePort() : 0;
    // In the folder of the compiled sources the name of the package means these sources, as package.json exports them.
    const folder = mkdtempSync(join(compiledTree(), "docs-"));
    try {
      const module = join(folder, `${fileName(block)}.mjs`);
      writeFileSync(
        module,
        toJavaScript(moduleOf(block, join(compiledTree(), "test/docs/programs/wrapper.js"), port)),
      );
      const plan = {
        module,
        port,
        paths: [...block.text.matchAll(/\bapp\.post\(\s*"([^"]+)"/g)].map(([, path]) => path),
        stops: block.text.includes("SIGTERM"),
      };
      const program = startProgram("test/docs/programs/run-block.ts", {
        args: [JSON.stringify(plan)],
        env: { DATABASE_URL: database.url, REDIS_URL: redisUrl() },
      });
      const code = await program.exited(30_000);
      expect({ code, output: program.output() }).toEqual({ code: 0, output: "" });
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  });
});

/** What the package exports, as the sources that it is built from. */
function sourcesOfEntries(): Record<string, string[]> {
  const { exports } = JSON.parse(readFileSync("package.json", "utf8")) as {
    exports: Record<string, string | { import: { default: string } }>;
  };
  const entries = Object.entries(exports).flatMap(([name, entry]) => {
    if (typeof entry === "string") return [];
    const source = entry.import.default
      .replace("./dist/esm/", "../../src/")
      .replace(/\.js$/, ".ts");
    return [[name.replace(".", "oncekey"), [source]] as [string, string[]]];
  });
  return Object.fromEntries(entries);
}

/** What the compiler has to say of the files in a folder; nothing of what they import. */
function typeFaults(folder: string): string[] {
  const compiler = resolve("node_modules/typescript/bin/tsc");
  try {
    execFileSync(process.execPath, [compiler, "--project", folder], {
      encoding: "utf8",
      stdio: "pipe",
    });
    return [];
  } catch (error) {
    const { stdout, stderr } = error as { stdout?: string; stderr?: string };
    const lines = `${stdout ?? ""}${stderr ?? ""}`.split("\n");
    if (!lines.some((line) => line.includes("error TS"))) throw error;
    return lines.filter((line) => line.includes(basename(folder)));
  }
}

function toJavaScript(source: string): string {
  const { code } = transformSync(source, {
    swcrc: false,
    jsc: { target: "es2022", parser: { syntax: "typescript" } },
    module: { type: "es6" },
  });
  return code;
}

test.each(of("sql"))("SQL of %s runs", async (_name, block) => {
  await expect(database.pool.query(block.text)).resolves.toBeDefined();
});

describe("data", () => {
  test.each([...of("json"), ...of("yaml")])("of %s can be read", (_name, block) => {
    const read = block.language === "json" ? JSON.parse : parseYaml;
    expect((read as (text: string) => unknown)(block.text)).toEqual(expect.any(Object));
  });
});

describe("the pages themselves", () => {
  test("a fence that is not closed is an error", () => {
    expect(() => blocksOf("page.md", "a\n```ts\nb")).toThrow(
      "page.md:2 opens a block that nobody closes",
    );
  });

  test("blocks are found with their language and line", () => {
    const page = "# a\n\n```sh\nls\n```\n\n```text\nx\n```\nand\n~~~ts\n```\n~~~\n";
    expect(blocksOf("page.md", page)).toEqual([
      { file: "page.md", line: 3, language: "sh", text: "ls" },
      { file: "page.md", line: 7, language: "text", text: "x" },
      { file: "page.md", line: 11, language: "ts", text: "```" },
    ]);
  });
});
