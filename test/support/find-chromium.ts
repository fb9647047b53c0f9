/** Finds a headless Chromium for tests: on PATH, else unpacked from the distribution's packages. */
import { unpackDebian } from "./debian-package.js";
import { onPath } from "./find-postgres.js";

export type ChromiumProgram = { path: string; libraryPath: string | undefined };

const names = ["chromium-headless-shell", "chromium", "chromium-browser", "google-chrome"];

/** The resources of the browser are in a package of their own, which its libraries do not name. */
const chromiumPackage = {
  name: "chromium",
  packages: ["chromium-headless-shell", "chromium-common"],
  program: "usr/lib/chromium/chromium-headless-shell",
};

/** Undefined where none can be had; the tests then say so and are skipped. */
export function findChromium(): ChromiumProgram | undefined {
  for (const name of names) {
    const path = onPath(name);
    if (path !== undefined) return { path, libraryPath: undefined };
  }
  return unpackDebian(chromiumPackage);
}

/** `describe` where a Chromium can be had, else a skipped one whose title says why. */
export function describeWithChromium(title: string, body: () => void): void {
  if (findChromium() === undefined)
    describe.skip(`${title} (no Chromium on PATH, and no Debian package of it in reach)`, body);
  else describe(title, body);
}
