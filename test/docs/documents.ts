/** The README and the pages of docs as headings and code blocks. */
import { readdirSync, readFileSync } from "node:fs";

export type Block = {
  readonly file: string;
  /** Of the opening fence. */
  readonly line: number;
  readonly language: string;
  readonly text: string;
};

export const pages = [
  "README.md",
  ...readdirSync("docs")
    .filter((name) => name.endsWith(".md"))
    .map((name) => `docs/${name}`),
];

/** Every fenced block, in order. A fence that is not closed is an error, or the rest of its page would go unseen. */
export function blocksOf(file: string, page = readFileSync(file, "utf8")): Block[] {
  const blocks: Block[] = [];
  let open: { line: number; fence: string; language: string; lines: string[] } | undefined;
  for (const [index, line] of page.split("\n").entries()) {
    const [, fence, info = ""] = /^\s*(`{3,}|~{3,})(.*)$/.exec(line) ?? [];
    if (open === undefined && fence !== undefined) {
      open = { line: index + 1, fence, language: info.trim(), lines: [] };
    } else if (open !== undefined && fence?.startsWith(open.fence) === true) {
      const { line: at, language, lines } = open;
      blocks.push({ file, line: at, language, text: lines.join("\n") });
      open = undefined;
    } else open?.lines.push(line);
  }
  if (open !== undefined) throw new Error(`${file}:${open.line} opens a block that nobody closes`);
  return blocks;
}

/** Of the languages that show what a command prints. */
const outputs = ["http", "text"];

/** What stands right below a shell block, with nothing but an empty line between, is what it prints. */
export function isOutputOf(block: Block, next: Block): boolean {
  const end = block.line + block.text.split("\n").length + 1;
  return block.language === "sh" && outputs.includes(next.language) && next.line === end + 2;
}

/** Rows of the tables below a heading, as cells; without the head. */
export function rowsBelow(file: string, heading: string): string[][] {
  const page = readFileSync(file, "utf8");
  const [, section] = page.split(`\n## ${heading}\n`);
  if (section === undefined) throw new Error(`${file} has no heading ${heading}`);
  return (section.split("\n## ")[0] as string)
    .split("\n")
    .filter((line) => line.startsWith("|"))
    .slice(2)
    .map((line) =>
      line
        .split("|")
        .slice(1, -1)
        .map((cell) => cell.trim()),
    );
}
