/**
 * One round of random requests against a real server process. Owns: the clients, and the reckoning at the end: the model of
 * every key against the rows, the server's log, its memory, and what it left open in Postgres.
 */
import { Agent } from "node:http";

import type pg from "pg";

import { removeDirectory, temporaryDirectory } from "../support/processes.js";
import { type ServerProcess, startServer } from "../support/server-process.js";
import { waitFor } from "../support/wait-for.js";
import { type Books, codeOf, createBooks, type Opened, type Route } from "./books.js";
import { createDraw } from "./draw.js";
import { type Answer, ask, sendRaw } from "./exchange.js";
import { planHostile } from "./hostile.js";
import type { Hostile } from "./parts.js";
import { type MemorySample, judgeMemory, sampleMemory } from "./memory.js";
import { apiKeys, createRequests, type Planned } from "./requests.js";

export type RoundOptions = {
  readonly requests: number;
  readonly seed: number;
  readonly databaseUrl: string;
  /** For looking at what was written. */
  readonly pool: pg.Pool;
  readonly redisUrl: string;
  /** Told forty times in a round how far it is. */
  readonly progress?: (sample: MemorySample) => void;
};

export type RoundReport = {
  readonly requests: number;
  readonly perSecond: number;
  readonly keys: number;
  /** How often each kind of broken request was sent. */
  readonly hostile: Readonly<Record<string, number>>;
  /** By status and code. */
  readonly answers: Readonly<Record<string, number>>;
  readonly made: Readonly<Record<string, number>>;
  readonly unkeyed: Readonly<Record<string, number>>;
  /** Requests that the client left, and whose outcome was asked for at the end. */
  readonly settled: number;
  readonly memory: readonly MemorySample[];
  /** What should not have been; empty in a good round. */
  readonly complaints: readonly string[];
};

const clients = 24;
/** How many of the exchanges are broken ones. */
const hostileShare = 0.15;
const memorySamples = 40;

type Plan = { polite: Planned } | { hostile: Hostile };

export async function fuzz(options: RoundOptions): Promise<RoundReport> {
  const dataDirectory = temporaryDirectory("fuzz");
  const server = await startServer({
    env: {
      DATABASE_URL: options.databaseUrl,
      REDIS_URL: options.redisUrl,
      ONCEKEY_API_KEYS: apiKeys,
      // The books of the built-in payment provider.
      ONCEKEY_DATA_DIR: dataDirectory,
      LOG_LEVEL: "warn",
      PORT: "0",
    },
  });
  try {
    return await runRound(options, server);
  } catch (cause) {
    const said = server.output().slice(-4_000);
    throw new Error(`The round broke off. The server said:\n${said}`, { cause });
  } finally {
    await server.kill();
    removeDirectory(dataDirectory);
  }
}

async function runRound(options: RoundOptions, server: ServerProcess): Promise<RoundReport> {
  const books = createBooks();
  const draw = createDraw(options.seed);
  const requests = createRequests(draw);
  const agent = new Agent({ keepAlive: true, maxSockets: clients });
  const hostile: Record<string, number> = {};
  const memory: MemorySample[] = [];
  const started = server.output().length;
  const sampleEvery = Math.max(1, Math.floor(options.requests / memorySamples));
  let sent = 0;
  let sampleAt = 0;

  const plan = (): Plan =>
    draw.chance(hostileShare)
      ? { hostile: planHostile(draw, requests) }
      : { polite: requests.next() };
  const client = async (): Promise<void> => {
    while (sent < options.requests && books.complaintCount < 1_000) {
      const next = plan();
      sent += "polite" in next ? 1 : Math.max(1, next.hostile.sent.length);
      if ("polite" in next) await sendPolite(server, agent, books, next.polite);
      else {
        hostile[next.hostile.kind] = (hostile[next.hostile.kind] ?? 0) + 1;
        await sendHostile(server, books, next.hostile);
      }
      if (sent < sampleAt) continue;
      sampleAt += sampleEvery;
      const sample = await sampleMemory(server.url, sent);
      memory.push(sample);
      options.progress?.(sample);
    }
  };
  const begin = performance.now();
  await Promise.all(Array.from({ length: clients }, client));
  const perSecond = Math.round((sent / (performance.now() - begin)) * 1_000);

  const settled = await settle(server, agent, books);
  agent.destroy();
  const made = await reckon(options.pool, books);
  for (const complaint of judgeMemory(memory, options.requests)) books.complain(complaint);
  const said = server.output().slice(started).trim();
  if (said !== "") books.complain(`the server said: ${said.slice(0, 4_000)}`);
  const code = await server.stop();
  if (code !== 0) books.complain(`the server ended with ${code}: ${server.output().slice(-2_000)}`);
  const { answers, unkeyed, keys, complaints } = books;
  return {
    requests: sent,
    perSecond,
    keys,
    hostile,
    answers,
    made,
    unkeyed,
    settled,
    memory,
    complaints,
  };
}

async function sendPolite(
  server: ServerProcess,
  agent: Agent,
  books: Books,
  planned: Planned,
): Promise<void> {
  const opened = planned.sent === undefined ? undefined : books.open(planned.sent);
  const name = `${planned.method} ${planned.path.slice(0, 100)}`;
  let answer: Answer;
  try {
    answer = await ask(server.port, agent, planned);
  } catch (error) {
    books.complain(`${name}: no answer: ${String(error)}`);
    if (opened !== undefined) books.unanswered(opened);
    return;
  }
  if (opened !== undefined) books.answered(opened, answer);
  else books.answeredOther(name, answer);
}

async function sendHostile(server: ServerProcess, books: Books, hostile: Hostile): Promise<void> {
  const opened: Opened[] = hostile.sent.map((sent) => books.open(sent));
  const { answers, hung } = await sendRaw(server.port, hostile);
  if (hung) books.complain(`${hostile.kind}: neither an answer nor the end of the connection`);
  for (const [index, each] of opened.entries()) {
    const answer = answers[index];
    if (answer === undefined) books.unanswered(each);
    else if (isNodes(answer) && each.sent.must === "either") {
      books.answeredOther(hostile.kind, answer);
      books.unanswered(each);
    } else books.answered(each, answer);
    // Whoever stays is answered; only nonsense may be met with the end of the connection.
    if (answer === undefined && hostile.after === "wait" && each.sent.must === "work")
      books.complain(`${hostile.kind}: no answer`);
  }
  for (const answer of answers.slice(opened.length)) books.answeredOther(hostile.kind, answer);
}

/** Node answers by itself what it cannot parse, also when that comes behind a request which the server is working on. */
function isNodes({ headers }: Answer): boolean {
  return headers["request-id"] === undefined;
}

/** What a client left is asked for again, as a good client does; then every outcome is known. */
async function settle(server: ServerProcess, agent: Agent, books: Books): Promise<number> {
  const left = books.unsettled();
  for (const sent of left) {
    const { retry } = sent;
    if (retry === undefined) throw new Error("a request without a retry was given up");
    await waitFor(
      async () => {
        const opened = books.open({ ...sent, variant: retry.variant });
        const answer = await ask(server.port, agent, retry.ask);
        books.answered(opened, answer);
        return codeOf(answer) !== "in_progress";
      },
      { what: `the outcome of ${retry.variant}` },
    );
  }
  return left.length;
}

const tables: readonly Route[] = ["charges", "orders", "checkouts"];

/** Rows against the model, and nothing left open. */
async function reckon(pool: pg.Pool, books: Books): Promise<Record<string, number>> {
  await waitForQuiet(pool, books);
  const expected = books.made();
  const untold = books.untold();
  const counts: Record<string, number> = {};
  for (const table of tables) {
    const { rows } = await pool.query<{ name: string | null; count: number }>(
      `SELECT account || '/' || CASE WHEN livemode THEN 'live' ELSE 'test' END || ' ' || idempotency_key AS name,
              count(*)::int AS count
         FROM ${table} ${table === "checkouts" ? "WHERE status = 'paid'" : ""}
        GROUP BY 1`,
    );
    const wanted = expected.get(table) ?? new Set<string>();
    counts[table] = wanted.size;
    const keyed = rows.filter(({ name }) => name !== null && !name.includes(" auto_"));
    const unkeyed = rows
      .filter((row) => !keyed.includes(row))
      .reduce((sum, row) => sum + row.count, 0);
    for (const { name, count } of keyed) {
      if (count !== 1) books.complain(`${count} ${table} under ${name}`);
      if (!wanted.delete(name!) && !untold.has(name!))
        books.complain(`${table} under ${name}, of which no client was told`);
    }
    for (const name of wanted)
      books.complain(`no row in ${table} under ${name}, and a client saw it`);
    if (unkeyed !== books.unkeyed[table])
      books.complain(
        `${unkeyed} ${table} without a key, where clients saw ${books.unkeyed[table]}`,
      );
  }
  return counts;
}

async function waitForQuiet(pool: pg.Pool, books: Books): Promise<void> {
  const open = async (): Promise<string[]> => {
    const { rows } = await pool.query<{ what: string }>(
      `SELECT format('session %s, %s: %s', pid, state, query) AS what
         FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid() AND state <> 'idle'
        UNION ALL
       SELECT format('advisory lock of %s', pid) FROM pg_locks
        WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
        UNION ALL
       SELECT format('%s key in state %s', count(*), state) FROM idempotency_keys
        WHERE state <> 'completed' GROUP BY state`,
    );
    return rows.map(({ what }) => what);
  };
  try {
    await waitFor(async () => (await open()).length === 0, { what: "Postgres to be quiet" });
  } catch {
    for (const what of await open()) books.complain(`left open: ${what}`);
  }
}
