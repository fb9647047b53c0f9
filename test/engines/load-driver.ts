/** Drivers that scripts/test-engines.mjs has installed beside the package. */
import { createRequire } from "node:module";
import { resolve } from "node:path";

export function loadDriver(name: string): unknown {
  return createRequire(resolve(".cache/engines/package.json"))(name);
}
