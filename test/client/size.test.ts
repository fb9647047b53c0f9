/** What a page has to load. */
import { gzipSync } from "node:zlib";

import { bundle } from "./bundle.js";

const mostBytes = 3_072;

test("the whole client is under 3 KB, minified and gzipped", async () => {
  const module = await bundle();
  expect(module).toContain("Idempotency-Key");
  expect(gzipSync(module, { level: 9 }).length).toBeLessThan(mostBytes);
});

test("it needs nothing of Node and no other package", async () => {
  // The bundler would leave what it cannot resolve for a browser as an import, or fail.
  expect(await bundle()).not.toMatch(/\bimport\b|\brequire\b|node:/);
});
