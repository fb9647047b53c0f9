/** Holds the figures and plots of docs/performance.md against bench/results/. */
import { readFileSync } from "node:fs";

import { readFigures } from "../../bench/figures/figures.js";

const files = readFigures();

test.each([...files.keys()])("docs/%s is what `npm run bench:figures` writes", (name) => {
  expect(readFileSync(`docs/${name}`, "utf8")).toBe(files.get(name));
});

test("each suite has its table, its plot and a row of each contender", () => {
  const page = files.get("performance.md") ?? "";
  for (const suite of ["first", "replay", "transaction", "open-first", "open-replay"]) {
    expect(page).toContain(`images/http-${suite}.svg`);
    expect(files.get(`images/http-${suite}.svg`)).toMatch(/^<svg .*<\/svg>\n$/s);
  }
  expect(page).toMatch(/^\| oncekey-plain \|/m);
});
