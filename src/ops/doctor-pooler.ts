/**
 * Whether something stands between the application and Postgres that hands out sessions for a transaction at a time. Owns:
 * finding that out by what happens to two clients. Leaves nothing behind in a session that somebody else will get.
 */
import type { Pool, PoolClient } from "pg";
import { ownTypes } from "../stores/own-types.js";
import { ok, problem, unless, wordsOf } from "./finding.js";
import type { Finding } from "./finding.js";

export interface PoolerCheck {
  /** With at least two connections. */
  readonly pool: Pool;
  /** What the application tells `postgresStore`. */
  readonly pooler: "transaction" | undefined;
}

/** What became of the first client's session while the second one held the session that the first had used. */
interface Seen {
  /** The server's process is not the one that the connection was opened to. */
  readonly isBetween: boolean;
  readonly isShared: boolean;
  readonly keepsSettings: boolean;
  readonly keepsStatements: boolean;
}

/** A pooler with other clients gives a session back only now and then. */
const rounds = 8;
const patienceMs = 2_000;
const setting = "oncekey.doctor";
const read = `SELECT pg_backend_pid() AS pid, current_setting('${setting}', true) AS held`;
const remember = `SELECT pg_backend_pid() AS pid, set_config('${setting}', 'seen', false) AS held`;

/** Another name for each round, since a driver prepares one name once. */
const statementOf = (round: number) => ({
  name: `oncekey_doctor_${round}`,
  text: "SELECT 1 AS one",
});

type Named = ReturnType<typeof statementOf>;

const adviceWithout =
  "What does not hold now: settings of the store's sessions and its prepared statements reach other clients or nobody, " +
  'statements fail, and a failover goes unnoticed by the cache. Say postgresStore({ pool, pooler: "transaction" }) ' +
  "(ONCEKEY_POOLER=transaction for oncekey serve), or name Postgres itself.";

export async function examinePooler({ pool, pooler }: PoolerCheck): Promise<readonly Finding[]> {
  let seen: Seen;
  try {
    seen = await look(pool);
  } catch (error) {
    const advice = "A pooler with a single session, or one that is busy. Ask again.";
    return [problem("pooler", "sessions", `could not tell: ${wordsOf(error)}`, advice)];
  }
  if (!seen.isShared) {
    const what = seen.isBetween
      ? "a pooler that keeps the session of each connection"
      : "one for each connection";
    return [
      unless("pooler", "sessions", what, {
        when: pooler === "transaction" && !seen.isBetween,
        level: "warning",
        advice:
          'No pooler was found. pooler: "transaction" is safe here too, and costs two round trips a statement.',
      }),
    ];
  }
  const what = "a pooler that hands out sessions for one transaction at a time";
  if (pooler === "transaction") return [ok("pooler", "sessions", `${what}, as the option says`)];
  const survives = (does: boolean): string => (does ? "survive here" : "do not survive");
  return [
    problem("pooler", "sessions", what, adviceWithout),
    unless("pooler", "session settings", survives(seen.keepsSettings), {
      when: !seen.keepsSettings,
      level: "problem",
      advice: "Isolation, durability and time-outs of the store would be those of the server.",
    }),
    unless("pooler", "named prepared statements", survives(seen.keepsStatements), {
      when: !seen.keepsStatements,
      level: "problem",
      advice: "Statements of the store would fail.",
    }),
  ];
}

async function look(pool: Pool): Promise<Seen> {
  const [first, second] = [await pool.connect(), await pool.connect()];
  // A connection that breaks meanwhile says so in the answer to the next question.
  for (const client of [first, second]) client.on("error", () => undefined);
  try {
    let seen = await lookOnce(first, second, statementOf(0));
    for (let round = 1; round < rounds && seen.isBetween && !seen.isShared; round += 1)
      seen = await lookOnce(first, second, statementOf(round));
    return seen;
  } finally {
    // One of them may still wait in a pooler for a session.
    for (const client of [first, second]) client.release(true);
  }
}

async function lookOnce(first: PoolClient, second: PoolClient, named: Named): Promise<Seen> {
  const opened = (first as PoolClient & { processID?: number | null }).processID;
  await ask(first, "BEGIN");
  const before = await ask<Session>(first, remember);
  await ask(first, named);
  await ask(first, "COMMIT");
  // The session that was given back last is the one that is given out next.
  await ask(second, "BEGIN");
  const taken = await ask<Session>(second, read);
  const isTaken = taken?.pid === before?.pid;
  const after = await lookAgain(first, before, named).catch((error: unknown) => {
    // It waits for a session: the other client holds the only one, which is an answer as well.
    if (isTaken) return { isAnother: true, keepsSettings: false, keepsStatements: false };
    throw error;
  });
  if (isTaken) await clean(second, named);
  await ask(second, "COMMIT");
  return { ...after, isBetween: opened !== before?.pid, isShared: isTaken || after.isAnother };
}

interface Session {
  readonly pid: number;
  readonly held: string | null;
}

async function lookAgain(
  client: PoolClient,
  before: Session | undefined,
  named: Named,
): Promise<{
  readonly isAnother: boolean;
  readonly keepsSettings: boolean;
  readonly keepsStatements: boolean;
}> {
  await ask(client, "BEGIN");
  const after = await ask<Session>(client, read);
  const isAnother = after?.pid !== before?.pid;
  const keepsStatements = await ask(client, named).then(
    () => true,
    () => false,
  );
  if (!isAnother && keepsStatements) await clean(client, named);
  await ask(client, keepsStatements ? "COMMIT" : "ROLLBACK");
  return { isAnother, keepsSettings: after?.held === "seen", keepsStatements };
}

/** Takes back what was left in this session. Some of it is not transactional, and a setting stays only when committed. */
async function clean(client: PoolClient, { name }: Named): Promise<void> {
  await ask(client, `SELECT set_config('${setting}', '', false)`);
  const prepared = `SELECT 1 AS there FROM pg_prepared_statements WHERE name = '${name}'`;
  if ((await ask(client, prepared)) !== undefined) await ask(client, `DEALLOCATE ${name}`);
}

/** One statement and its first row. Rejects when it takes long: the pooler has no session left. */
async function ask<Row>(
  client: PoolClient,
  query: string | { readonly name: string; readonly text: string },
): Promise<Row | undefined> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(() => reject(new Error("no session came free in time")), patienceMs);
  });
  const given = typeof query === "string" ? { text: query } : query;
  const answer = client.query({ ...given, types: ownTypes });
  // Where nobody waits for it any more, its end is of no interest.
  answer.catch(() => undefined);
  try {
    const result = await Promise.race([answer, late]);
    return result.rows[0] as Row | undefined;
  } finally {
    clearTimeout(timer);
  }
}
