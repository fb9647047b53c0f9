/** `npm run matrix` writes docs/compatibility.md; without it this test fails where the page is not what it would write. */
import { readFileSync, writeFileSync } from "node:fs";

import { renderDocument } from "./document.js";
import { forgotten } from "./framework.js";
import { connectFramework, express4Framework, express5Framework } from "./frameworks/express.js";
import { fastifyFramework } from "./frameworks/fastify.js";
import { fetchFramework, honoFramework } from "./frameworks/fetch.js";
import { nestFramework } from "./frameworks/nest.js";
import { nodeHttpFramework } from "./frameworks/node-http.js";

const page = "docs/compatibility.md";

const frameworks = [
  express5Framework,
  express4Framework,
  nodeHttpFramework,
  connectFramework,
  nestFramework,
  fastifyFramework,
  honoFramework,
  fetchFramework,
];

test("every row of every framework is tried or has a reason", () => {
  expect(frameworks.flatMap((framework) => forgotten(framework))).toEqual([]);
});

test("docs/compatibility.md is what the matrix says; `npm run matrix` writes it", () => {
  const rendered = renderDocument(frameworks);
  if (process.env["MATRIX_WRITE"] === "1") writeFileSync(page, rendered);
  expect(readFileSync(page, "utf8")).toBe(rendered);
});
