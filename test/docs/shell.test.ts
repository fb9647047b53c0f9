/** The shell blocks of the README and of docs are run from the first to the last, and what they show is compared. */
import { existsSync, readFileSync } from "node:fs";

import { useDatabase } from "../support/databases.js";
import { startServer, type ServerProcess } from "../support/server-process.js";
import { blocksOf, isOutputOf, pages } from "./documents.js";
import { openShell, type Shell } from "./shell.js";

jest.setTimeout(60_000);

let shell: Shell;

beforeAll(() => {
  shell = openShell();
});
afterAll(() => {
  shell.close();
});

/**
 * Takes away what differs from run to run. Ids and times are numbered as they first come on a page, so that two that are shown
 * as the same have to be the same.
 */
function createMask(): (text: string) => string {
  const numbers = new Map<string, number>();
  const number = (word: string): string => {
    if (!numbers.has(word)) numbers.set(word, numbers.size + 1);
    return `<${numbers.get(word)}>`;
  };
  return (text) =>
    text
      .replaceAll(/\b(?:ch|req)_[0-9a-f]{24}\b|"created":\d{10}/g, number)
      .replaceAll(/\b[A-Z][a-z]{2}, \d{2} [A-Z][a-z]{2} \d{4} \d{2}:\d{2}:\d{2} GMT/g, "<date>")
      .replaceAll("\r\n", "\n")
      .replaceAll(/[ \t]+$/gm, "")
      .trim();
}

/** A line of three dots stands for any number of lines. */
function patternOf(shown: string): RegExp {
  const escaped = shown
    .split("\n")
    .map((line) => (line === "..." ? "(?:.*\\n)*?.*" : escapeText(line)));
  return new RegExp(`^${escaped.join("\n")}$`);
}

function escapeText(text: string): string {
  return text.replaceAll(/[.*+?^${}()|[\]\\]/g, "\\$&");
}

const manifest = JSON.parse(readFileSync("package.json", "utf8")) as {
  name: string;
  scripts: Record<string, string>;
  peerDependencies: Record<string, string>;
};

/** Why a replaced command would not work: no such script, a package that is none of ours, a file that is not there. */
function faultOf(command: string): string | undefined {
  const [name, verb = "", ...rest] = command.split(" ");
  const packages = [manifest.name, ...Object.keys(manifest.peerDependencies)];
  const works = {
    npm: () => {
      if (verb === "install") return rest.every((each) => packages.includes(each));
      return verb === "ci" || verb in manifest.scripts;
    },
    npx: () => verb === manifest.name,
    docker: () => command === "docker compose up --build" && existsSync("compose.yaml"),
    pgrep: () => command === "pgrep -f cli/main.js serve",
  }[name as "npm" | "npx" | "docker" | "pgrep"]();
  return works ? undefined : command;
}

describe.each(pages)("%s", (file) => {
  const blocks = blocksOf(file);
  const runs = blocks.flatMap((block, index) => {
    if (block.language !== "sh") return [];
    const next = blocks[index + 1];
    const shown = next !== undefined && isOutputOf(block, next) ? next : undefined;
    return [{ block, shown, name: `line ${block.line}` }];
  });
  if (runs.length === 0) {
    test("has no shell blocks", () => expect(runs).toEqual([]));
    return;
  }

  let server: ServerProcess | undefined;
  afterAll(async () => {
    await server?.stop();
  });
  const database = useDatabase();
  const [maskShown, maskReal] = [createMask(), createMask()];

  test.each(runs)("$name", async ({ block, shown }) => {
    const { code, output, replaced } = await shell.run(block.text, {
      url: server?.url ?? "http://127.0.0.1:9",
      databaseUrl: database.url,
      pid: server?.pid ?? 0,
    });
    expect(replaced.flatMap((command) => faultOf(command) ?? [])).toEqual([]);
    if (replaced.some((command) => /^npm (?:run )?start$/.test(command))) {
      // The reader's first terminal. Whatever ran there before was killed.
      server = await startServer({ env: { DATABASE_URL: database.url } });
    }
    expect({ code, output }).toMatchObject({ code: 0 });
    const pattern = patternOf(shown === undefined ? "..." : maskShown(shown.text));
    expect(maskReal(output)).toMatch(pattern);
  });
});
