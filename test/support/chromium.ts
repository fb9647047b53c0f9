/** A headless Chromium as a process of the tests: started, killed, and started again on the same profile. */
import { type Browser, chromium } from "playwright-core";

import { findChromium } from "./find-chromium.js";
import { endChild, isRunning, spawnChild } from "./processes.js";
import { waitFor } from "./wait-for.js";

export type RunningChromium = {
  readonly browser: Browser;
  /** Its one window; it keeps storage in the profile. */
  readonly context: ReturnType<Browser["contexts"]>[number];
  /** kill -9. */
  kill(): Promise<void>;
};

const flags = [
  // Chromium refuses to run as root with its sandbox, and containers seldom allow the sandbox to others. Only our own page is loaded.
  "--no-sandbox",
  "--disable-dev-shm-usage",
  "--disable-gpu",
  "--remote-debugging-port=0",
];

/** @param profile is the folder of the browser's storage. */
export async function startChromium(profile: string): Promise<RunningChromium> {
  const program = findChromium();
  if (program === undefined) throw new Error("There is no Chromium; use describeWithChromium.");
  const env = { ...process.env };
  if (program.libraryPath !== undefined) env["LD_LIBRARY_PATH"] = program.libraryPath;
  const child = spawnChild(program.path, [...flags, "--headless", `--user-data-dir=${profile}`], {
    env,
    stdio: ["ignore", "ignore", "pipe"],
  });
  let text = "";
  child.stderr?.on("data", (bytes: Buffer) => (text += bytes.toString()));
  const [, endpoint] = await waitFor(
    () => {
      if (!isRunning(child)) throw new Error(`Chromium ended:\n${text}`);
      return /^DevTools listening on (ws:\S+)/m.exec(text);
    },
    { timeoutMs: 60_000, what: "Chromium to listen" },
  );
  const browser = await chromium.connectOverCDP(endpoint as string);
  const [context] = browser.contexts();
  if (context === undefined) throw new Error("Chromium has no window.");
  return { browser, context, kill: () => endChild(child, "SIGKILL") };
}
