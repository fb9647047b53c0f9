/** Finds PostgreSQL programs for tests: an installed server first, else the embedded one. */
import { spawnSync } from "node:child_process";
import { accessSync, constants, existsSync, readdirSync } from "node:fs";
import { tmpdir } from "node:os";
import { delimiter, join } from "node:path";

import {
  type Account,
  embeddedBinaries,
  serverAccount,
} from "../../src/server/embedded-binaries.js";

export type PostgresPrograms = { initdb: string; postgres: string; account: Account | undefined };

const oldestMajor = 14;

export function onPath(name: string): string | undefined {
  for (const folder of (process.env["PATH"] ?? "").split(delimiter)) {
    const path = join(folder, name);
    try {
      accessSync(path, constants.X_OK);
      return path;
    } catch {
      // The next folder may have it.
    }
  }
  return undefined;
}

/** The Debian family keeps server programs off PATH, in one folder per major version. */
function versionedFolders(): string[] {
  const root = "/usr/lib/postgresql";
  if (!existsSync(root)) return [];
  const majors = readdirSync(root).sort((a, b) => Number(b) - Number(a));
  return majors.map((major) => join(root, major, "bin"));
}

function isRecent(postgres: string): boolean {
  const { stdout } = spawnSync(postgres, ["--version"], { encoding: "utf8" });
  return Number(/\) (\d+)/.exec(stdout ?? "")?.[1] ?? 0) >= oldestMajor;
}

/** `ONCEKEY_TEST_POSTGRES=embedded` takes the embedded one although a server is installed. */
export function findPostgres(): PostgresPrograms {
  const account = serverAccount();
  if (process.env["ONCEKEY_TEST_POSTGRES"] !== "embedded") {
    const candidates = versionedFolders().map((folder) => ({
      initdb: join(folder, "initdb"),
      postgres: join(folder, "postgres"),
    }));
    const [initdb, postgres] = [onPath("initdb"), onPath("postgres")];
    if (initdb !== undefined && postgres !== undefined) candidates.unshift({ initdb, postgres });
    for (const found of candidates)
      if (existsSync(found.initdb) && isRecent(found.postgres)) return { ...found, account };
  }
  return { ...embeddedBinaries(join(tmpdir(), "oncekey-test-cache"), account), account };
}
