/** Links inside the repository lead somewhere, and so do their anchors. */
import { existsSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";

import { blocksOf, pages } from "./documents.js";

/** As GitHub makes them. */
function anchorsOf(file: string): string[] {
  const page = readFileSync(file, "utf8");
  return [...page.matchAll(/^#+ (.+)$/gm)].map(([, heading]) =>
    (heading as string)
      .toLowerCase()
      .replaceAll(/[^\w\- ]/g, "")
      .replaceAll(" ", "-"),
  );
}

test.each(pages)("%s", (file) => {
  const code = blocksOf(file).map((block) => block.text);
  const page = code.reduce((text, block) => text.replace(block, ""), readFileSync(file, "utf8"));
  const broken = [...page.matchAll(/\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)/g)].filter(
    ([, path, anchor]) => {
      const target = path === "" ? file : join(dirname(file), path as string);
      return !existsSync(target) || (anchor !== undefined && !anchorsOf(target).includes(anchor));
    },
  );
  expect(broken.map(([link]) => link)).toEqual([]);
});
