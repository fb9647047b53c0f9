/** A private PgBouncer for tests: Debian's own, in front of a private PostgreSQL. */
import { closeSync, openSync, readFileSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";

import { serverAccount } from "../../src/server/embedded-binaries.js";
import { type UnpackedProgram, unpackDebian } from "./debian-package.js";
import { onPath } from "./find-postgres.js";
import { endChild, freePort, isRunning, spawnChild, temporaryDirectory } from "./processes.js";
import { waitFor } from "./wait-for.js";

export type PgBouncerOptions = {
  /** The server behind it. */
  postgresPort: number;
  poolMode: "session" | "transaction";
  /** Most connections to the server; fewer than clients have, so that they change hands. Default 4. */
  poolSize?: number;
};

export type PgBouncer = {
  readonly port: number;
  /** The URL of a database, by way of this pooler. */
  via(url: string): string;
  end(): Promise<void>;
};

type Program = { path: string; libraryPath: string | undefined };

const debianPackage = {
  name: "pgbouncer",
  packages: ["pgbouncer"],
  program: "usr/sbin/pgbouncer",
};

/** Undefined where none can be had; the tests then say so and are skipped. */
export function findPgBouncer(): Program | undefined {
  const path = onPath("pgbouncer");
  if (path !== undefined) return { path, libraryPath: undefined };
  const unpacked: UnpackedProgram | undefined = unpackDebian(debianPackage);
  return unpacked;
}

/** `describe` where a PgBouncer can be had, else a skipped one whose title says why. */
export function describeWithPgBouncer(title: string, body: () => void): void {
  if (findPgBouncer() === undefined)
    describe.skip(`${title} (no pgbouncer on PATH, and no Debian package of it in reach)`, body);
  else describe(title, body);
}

function answers(port: number): Promise<boolean> {
  return new Promise((done) => {
    const socket = connect({ port, host: "127.0.0.1" });
    socket.once("error", () => done(false));
    socket.once("connect", () => {
      socket.destroy();
      done(true);
    });
  });
}

export async function startPgBouncer(options: PgBouncerOptions): Promise<PgBouncer> {
  const program = findPgBouncer();
  if (program === undefined) throw new Error("There is no pgbouncer.");
  // It refuses to run as root, as PostgreSQL does.
  const account = serverAccount();
  const folder = temporaryDirectory("pgbouncer", account);
  const port = await freePort();
  const [config, logFile] = [join(folder, "pgbouncer.ini"), join(folder, "pgbouncer.log")];
  writeFileSync(
    config,
    `[databases]
* = host=127.0.0.1 port=${options.postgresPort} user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = ${port}
unix_socket_dir =
auth_type = any
pool_mode = ${options.poolMode}
default_pool_size = ${options.poolSize ?? 4}
max_client_conn = 500
`,
  );
  const output = openSync(logFile, "a");
  const env: NodeJS.ProcessEnv = { ...process.env };
  if (program.libraryPath !== undefined) env["LD_LIBRARY_PATH"] = program.libraryPath;
  const child = spawnChild(program.path, [config], {
    ...account,
    cwd: "/",
    env,
    detached: true,
    stdio: ["ignore", output, output],
  });
  closeSync(output);
  child.unref();
  await waitFor(async () => !isRunning(child) || (await answers(port)), { what: "PgBouncer" });
  if (!isRunning(child)) throw new Error(`PgBouncer ended:\n${readFileSync(logFile, "utf8")}`);
  return {
    port,
    via(url) {
      const through = new URL(url);
      through.hostname = "127.0.0.1";
      through.port = String(port);
      return through.href;
    },
    // SIGINT waits for clients; SIGTERM does not.
    end: () => endChild(child, "SIGTERM"),
  };
}
