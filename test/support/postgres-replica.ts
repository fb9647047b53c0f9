/** A streaming replica of a private PostgreSQL, to be promoted. */
import { execFileSync, spawnSync } from "node:child_process";
import { chownSync, existsSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";

import pg from "pg";

import type { PostgresPrograms } from "./find-postgres.js";
import { postgresEnvironment, type PostgresServer, startPostgres } from "./postgres-server.js";
import { waitFor } from "./wait-for.js";

export type Replica = PostgresServer & {
  /** Resolves when the replica has replayed all that the primary has written by now. */
  caughtUp(): Promise<void>;
  /** Makes it a primary, which takes writes when this resolves. */
  promote(): Promise<void>;
};

/** `by`: the URL under which the replica finds the primary, for instance by way of a proxy. */
export async function startReplica(primary: PostgresServer, by = primary.url): Promise<Replica> {
  const { hostname, port } = new URL(by);
  const server = await startPostgres({
    settings: {
      primary_conninfo: `host=${hostname} port=${port} user=postgres application_name=replica`,
      wal_retrieve_retry_interval: "100ms",
    },
    fill: (dataDir, programs) => {
      const backup = join(dirname(programs.postgres), "pg_basebackup");
      if (existsSync(backup)) backUp(backup, primary.url, dataDir, programs);
      else copyFrozen(primary, dataDir, programs);
      const signal = join(dataDir, "standby.signal");
      writeFileSync(signal, "");
      if (programs.account !== undefined)
        chownSync(signal, programs.account.uid, programs.account.gid);
    },
  });
  return {
    ...server,
    get pid() {
      return server.pid;
    },
    caughtUp: async () => {
      const found = await ask<{ lsn: string }>(
        primary.url,
        "SELECT pg_current_wal_flush_lsn()::text AS lsn",
      );
      await waitFor(
        async () => {
          const sql = `SELECT pg_last_wal_replay_lsn() >= '${found.lsn}'::pg_lsn AS done`;
          return (await ask<{ done: boolean }>(server.url, sql)).done;
        },
        { what: "the replica to catch up" },
      );
    },
    promote: async () => {
      await ask(server.url, "SELECT pg_promote(true, 30)");
      await waitFor(
        async () =>
          !(
            await ask<{ recovering: boolean }>(
              server.url,
              "SELECT pg_is_in_recovery() AS recovering",
            )
          ).recovering,
        { what: "the promotion" },
      );
    },
  };
}

function backUp(
  program: string,
  url: string,
  dataDir: string,
  { account }: PostgresPrograms,
): void {
  const args = ["--dbname", url, "--pgdata", dataDir, "--wal-method", "stream"];
  const { status, stderr } = spawnSync(program, [...args, "--checkpoint", "fast", "--no-sync"], {
    ...account,
    cwd: "/",
    env: postgresEnvironment(),
    encoding: "utf8",
  });
  if (status !== 0) throw new Error(`pg_basebackup failed (${status}):\n${stderr}`);
}

/**
 * The embedded PostgreSQL comes without pg_basebackup. A copy made while every process is stopped is what a crash would leave
 * at that moment, from which recovery goes on.
 */
function copyFrozen(primary: PostgresServer, dataDir: string, { account }: PostgresPrograms): void {
  primary.freeze();
  try {
    execFileSync("cp", ["-Rp", primary.dataDir, dataDir]);
  } finally {
    primary.thaw();
  }
  rmSync(join(dataDir, "postmaster.pid"), { force: true });
  if (account !== undefined)
    execFileSync("chown", ["-R", `${account.uid}:${account.gid}`, dataDir]);
}

async function ask<Row extends pg.QueryResultRow>(url: string, sql: string): Promise<Row> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    const { rows } = await client.query<Row>(sql);
    return rows[0] as Row;
  } finally {
    await client.end();
  }
}
