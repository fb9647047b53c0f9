/** Drivers that scripts/test-engines.mjs has installed beside the package. */
import { createRequire } from "node:module";
import { resolve } from "node:path";

export function loadDriver<Driver>(name: string): Driver {
  return createRequire(resolve(".cache/engines/package.json"))(name) as Driver;
}
