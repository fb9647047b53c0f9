/** The client as a page loads it: one module, minified. */
import { build } from "esbuild";

let made: Promise<string> | undefined;

export function bundle(): Promise<string> {
  made ??= build({
    entryPoints: ["src/client/client.ts"],
    bundle: true,
    minify: true,
    write: false,
    format: "esm",
    platform: "browser",
    target: "es2022",
    logLevel: "silent",
  }).then(({ outputFiles }) => outputFiles[0]?.text ?? "");
  return made;
}
