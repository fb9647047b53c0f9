/**
 * Whether a Postgres keeps what oncekey promises. Owns: which settings matter, and why. Reads only, but for a row lock on
 * nothing: no table is written.
 */
import type { Pool } from "pg";
import { assertSchema } from "../stores/migrate.js";
import { ownRows } from "../stores/own-types.js";
import { checkSchemaName, quoteIdentifier, statementsFor } from "../stores/sql-text.js";
import { ok, problem, unless, wordsOf } from "./finding.js";
import type { Finding } from "./finding.js";

export interface PostgresCheck {
  readonly pool: Pool;
  /** Schema of the tables. Default `public`. */
  readonly schema?: string;
  /** How many processes of the application there are. */
  readonly processes: number;
  /** The `max` of the pool that each of them gives to the store. */
  readonly poolSize: number;
  /** The wall clock of this machine, to compare; nothing is decided by it. */
  readonly wallMs: () => number;
}

interface Settings {
  readonly version: number;
  readonly version_text: string;
  readonly in_recovery: boolean;
  readonly fsync: string;
  readonly full_page_writes: string;
  readonly synchronous_commit: string;
  readonly standbys: string;
  readonly idle_in_transaction: string;
  readonly idle_session: string;
  readonly statement: string;
  readonly max_connections: number;
  readonly reserved: number;
  readonly role_limit: number;
  readonly database_limit: number;
  readonly in_use: number;
}

/** DESIGN, section 8. */
const oldestVersion = 140_000;
/** Claims 4, holders 4; see postgresStore. */
const ownConnections = 8;
/** More than network and clock noise. */
const notableClockMs = 2_000;

const settingsSql = `
  SELECT current_setting('server_version_num')::int AS version, current_setting('server_version') AS version_text,
    pg_is_in_recovery() AS in_recovery, current_setting('fsync') AS fsync,
    current_setting('full_page_writes') AS full_page_writes, current_setting('synchronous_commit') AS synchronous_commit,
    current_setting('synchronous_standby_names') AS standbys,
    current_setting('idle_in_transaction_session_timeout') AS idle_in_transaction,
    coalesce(current_setting('idle_session_timeout', true), '0') AS idle_session,
    current_setting('statement_timeout') AS statement, current_setting('max_connections')::int AS max_connections,
    current_setting('superuser_reserved_connections')::int
      + coalesce(current_setting('reserved_connections', true), '0')::int AS reserved,
    (SELECT rolconnlimit FROM pg_roles WHERE rolname = current_user) AS role_limit,
    (SELECT datconnlimit FROM pg_database WHERE datname = current_database()) AS database_limit,
    (SELECT count(*)::int FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()) AS in_use`;

/** Checks the server, its settings, the schema and the clock. Rejects only where Postgres cannot be asked at all. */
export async function examinePostgres(check: PostgresCheck): Promise<readonly Finding[]> {
  const [row] = await ownRows<Settings>(check.pool, settingsSql);
  const found = row as Settings;
  return [
    ...serverFindings(found),
    ...timeoutFindings(found),
    connectionFinding(found, check),
    ...(await schemaFindings(check)),
    await clockFinding(check),
  ];
}

function serverFindings(found: Settings): readonly Finding[] {
  const isLowered = ["off", "local", "remote_write"].includes(found.synchronous_commit);
  return [
    unless("postgres", "version", found.version_text, {
      when: found.version < oldestVersion,
      level: "problem",
      advice: "oncekey needs PostgreSQL 14 or newer.",
    }),
    unless("postgres", "role of the server", found.in_recovery ? "replica" : "primary", {
      when: found.in_recovery,
      level: "problem",
      advice: "A replica takes no claims. Name the primary.",
    }),
    unless("postgres", "fsync", found.fsync, {
      when: found.fsync !== "on",
      level: "problem",
      advice:
        "After a crash of the machine committed responses are lost and keys run again. Set fsync = on.",
    }),
    unless("postgres", "full_page_writes", found.full_page_writes, {
      when: found.full_page_writes !== "on",
      level: "problem",
      advice:
        "A crash in the middle of a page write destroys committed rows. Set full_page_writes = on, unless the file system writes pages whole.",
    }),
    unless("postgres", "synchronous_commit", found.synchronous_commit, {
      when: isLowered,
      level: "warning",
      advice:
        "The store raises it to on for its own transactions. Everything else in this database can lose what it has committed last.",
    }),
    unless("postgres", "synchronous replication", found.standbys === "" ? "none" : found.standbys, {
      when: found.standbys === "",
      level: "warning",
      advice:
        "A failover to an asynchronous replica loses what was committed last, and those keys are free again. See docs/operations.md. Nothing to do where there is no failover.",
    }),
  ];
}

function timeoutFindings(found: Settings): readonly Finding[] {
  return [
    ok(
      "postgres",
      "statement and idle-in-transaction time-outs",
      `${found.statement} and ${found.idle_in_transaction}; the store sets its own`,
    ),
    unless("postgres", "idle_session_timeout", found.idle_session, {
      when: found.idle_session !== "0",
      level: "warning",
      advice:
        "The server ends idle connections. Each loss looks like a failover, and replays ask Postgres until the next connection. Set it to 0 for this role.",
    }),
  ];
}

function connectionFinding(found: Settings, { processes, poolSize }: PostgresCheck): Finding {
  const needed = processes * (poolSize + ownConnections);
  const limits = [
    found.max_connections - found.reserved,
    ...[found.role_limit, found.database_limit].filter((limit) => limit >= 0),
  ];
  const most = Math.min(...limits);
  const seen = `${needed} needed (${processes} × (pool of ${poolSize} + ${ownConnections} of the store)), ${most} allowed, ${found.in_use} in use now`;
  return unless("postgres", "connections", seen, {
    when: needed > most,
    level: "problem",
    advice:
      "Raise max_connections (or the limit of the role or the database), make the pools smaller, or put a pooler in between. --processes and --pool-size say what there is.",
  });
}

const tables = ["idempotency_keys", "idempotency_steps", "idempotency_outbox"];

async function schemaFindings({ pool, schema = "public" }: PostgresCheck): Promise<Finding[]> {
  try {
    await assertSchema({ pool, schema });
  } catch (error) {
    return [problem("schema", "migrations", wordsOf(error), "Run oncekey migrate.")];
  }
  const place = quoteIdentifier(checkSchemaName(schema));
  const attempt = async (
    name: string,
    text: string,
    values: readonly unknown[],
    read: (row: Record<string, unknown>) => Finding,
  ): Promise<Finding> => {
    try {
      const [row] = await ownRows<Record<string, unknown>>(pool, text, values);
      return read(row ?? {});
    } catch (error) {
      return problem("schema", name, wordsOf(error), "The role of the application needs this.");
    }
  };
  return [
    ok("schema", "migrations", `up to date in schema ${schema}`),
    await attempt(
      "rights",
      `SELECT string_agg(t || ' ' || r, ', ') AS missing
         FROM unnest($1::text[]) t, unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) r
        WHERE NOT has_table_privilege(current_user, t, r)`,
      [tables.map((table) => `${place}.${table}`)],
      ({ missing }) =>
        unless("schema", "rights", typeof missing === "string" ? `missing: ${missing}` : "there", {
          when: missing !== null,
          level: "problem",
          advice: "Grant them to the role of the application.",
        }),
    ),
    await attempt("epoch", statementsFor(schema).epoch.text, [], ({ epoch }) =>
      unless("schema", "epoch", typeof epoch === "string" ? "readable" : "empty", {
        when: typeof epoch !== "string",
        level: "problem",
        advice: "Without it cached responses cannot be told from those of a lost history.",
      }),
    ),
    await attempt(
      "clock of the windows",
      `SELECT abs(extract(epoch FROM ${place}.idempotency_now() - clock_timestamp()))::float8 * 1000 AS off`,
      [],
      ({ off }) =>
        unless("schema", "clock of the windows", `${Math.round(Number(off))} ms off`, {
          when: Number(off) > notableClockMs,
          level: "problem",
          advice:
            "The function idempotency_now() was replaced, as tests do. Leases and windows are wrong.",
        }),
    ),
  ];
}

async function clockFinding({ pool, wallMs }: PostgresCheck): Promise<Finding> {
  const before = wallMs();
  const [row] = await ownRows<{ now: number }>(
    pool,
    "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::float8 AS now",
  );
  const middle = (before + wallMs()) / 2;
  const offMs = Math.round(middle - (row?.now ?? middle));
  return unless("postgres", "clock", `this machine is ${offMs} ms ahead of the server`, {
    when: Math.abs(offMs) > notableClockMs,
    level: "warning",
    advice:
      "Nothing is decided by it. Logs and Idempotency-Expires will confuse their readers; set up time synchronisation.",
  });
}
