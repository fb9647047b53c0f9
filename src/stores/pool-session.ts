/**
 * Transactions on a `pg.Pool`: what a transaction route runs on unless it names something else. Owns: the way of a connection
 * out of the pool and back, and what the handler may do with it.
 */
import type { Pool, PoolClient } from "pg";
import { IdempotencyError } from "../core/errors.js";
import type { SessionEnd, SessionSettings, SqlResult, SqlSession } from "../core/sql-session.js";
import { finishStepwise, openStepwise } from "./carrying.js";
import type { Carried, CarryingSession, Finish, Opened } from "./carrying.js";
import { takesOneWrite, writeTogether } from "./one-write.js";
import type { WireAnswer, WireStatement, Written } from "./one-write.js";
import { ownTypes } from "./own-types.js";
import { isAnswered } from "./sql-state.js";
import { limitGraceMs, within } from "./time-limit.js";

/**
 * Opens a transaction on the pool and runs what is carried. In one round trip where the client lets us write several statements
 * at once; as many as statements where it does not.
 */
export async function openPoolSession(
  pool: Pool,
  prepare: boolean,
  settings: SessionSettings,
  opening: readonly Carried[],
): Promise<Opened<PoolClient>> {
  const { isolation, timeoutMs } = settings;
  const client = await connectWithin(pool, timeoutMs);
  const session = hold(client, prepare, timeoutMs);
  const begin = `BEGIN ISOLATION LEVEL ${isolation.toUpperCase()} READ WRITE`;
  if (!takesOneWrite(client)) {
    await session.begin(begin);
    const stepwise: CarryingSession<PoolClient> = {
      ...session,
      finish: (last, read) => finishStepwise(session, last, read),
    };
    return openStepwise(stepwise, opening);
  }
  const wire = ({ statement: { name, text }, values }: Carried): WireStatement => ({
    name: prepare ? name : undefined,
    text,
    values,
  });
  const limitMs = timeoutMs + limitGraceMs;
  const written = await writeTogether(
    client,
    [{ text: begin, values: [] }, ...opening.map(wire)],
    limitMs,
  );
  if (written.kind === "failed") {
    session.look(written.cause);
    await session.rollback();
    throw written.cause;
  }
  const results = opening.map((carried, index) => toResult(carried, written.answers[index + 1]));
  const finish: CarryingSession<PoolClient>["finish"] = async (last, read) => {
    if (session.isGone())
      return { kind: "refused", cause: new IdempotencyError("transaction_ended") };
    session.end();
    const statements = [...last.map(wire), { text: "COMMIT", values: [] }];
    const ended = await writeTogether(client, statements, limitMs);
    if (ended.kind === "failed") return session.failed(ended, last.length);
    session.release(false);
    const end = endOf(ended.answers.at(-1)?.tag);
    const answers = last.map((carried, index) => toResult(carried, ended.answers[index]));
    return end.kind === "committed"
      ? { kind: "ended", end, read: read(answers) }
      : { kind: "ended", end };
  };
  return { session: Object.assign(session, { finish }), results };
}

interface HeldClient extends SqlSession<PoolClient> {
  begin(text: string): Promise<void>;
  /** Takes note of what an error says of the connection. */
  look(error: unknown): void;
  /** From here on `tx` is of no use. */
  end(): void;
  /** Gives the connection back, or throws it away. */
  release(broken: boolean): void;
  /** What it means that so many last statements and COMMIT, in one write, were not all answered; leaves nothing open. */
  failed(written: Extract<Written, { kind: "failed" }>, last: number): Promise<Finish<never>>;
  watchEnd(): void;
  /** True when the handler has ended the transaction; nothing is left open then. */
  isGone(): boolean;
}

function hold(client: PoolClient, prepare: boolean, timeoutMs: number): HeldClient {
  // A checked-out client reports a lost connection here too; the statement under way, or the next one, rejects with it.
  const onError = (): void => undefined;
  client.on("error", onError);
  let state: "open" | "ended" | "gone" = "open";
  let isLost = false;
  let stopWatching = (): void => undefined;

  const release = (broken: boolean): void => {
    if (state !== "gone") state = "ended";
    stopWatching();
    client.removeListener("error", onError);
    client.release(broken);
  };
  const look = (error: unknown): void => {
    isLost ||= !isAnswered(error);
  };
  const undo = async (): Promise<void> => {
    state = "ended";
    if (isLost) return release(true);
    const ended = await within(client.query("ROLLBACK"), timeoutMs).catch(() => undefined);
    release(ended === undefined);
  };
  const isGone = (): boolean => state === "gone";
  const giveUp = (): void => {
    if (state !== "open") return;
    state = "gone";
    destroy(client);
    release(true);
  };
  return {
    tx: guard(client, () => state !== "open"),
    watchEnd: () => {
      stopWatching = onceIdle(client, giveUp);
    },
    isGone,
    look,
    release,
    begin: async (text) => {
      try {
        await within(client.query(text), timeoutMs);
      } catch (error) {
        release(true);
        throw error;
      }
    },
    end: () => {
      state = "ended";
    },
    query: async ({ name, text }, values) => {
      if (isGone()) throw new IdempotencyError("transaction_ended");
      const query = { ...(prepare ? { name } : {}), text, values: [...values], types: ownTypes };
      try {
        // The server has the same limit, and a server that hangs does not keep it.
        return await within(client.query(query), timeoutMs + limitGraceMs);
      } catch (error) {
        look(error);
        // The server told of the end when this was on its way.
        if (isGone()) throw new IdempotencyError("transaction_ended", { cause: error });
        throw error;
      }
    },
    rollback: async () => {
      if (state === "open") await undo();
    },
    commit: async () => {
      if (isGone())
        return { kind: "rolled_back", cause: new IdempotencyError("transaction_ended") };
      state = "ended";
      try {
        const { command } = await within(client.query("COMMIT"), timeoutMs);
        release(false);
        return endOf(command);
      } catch (cause) {
        release(true);
        return lostOrRefused(cause);
      }
    },
    failed: async ({ cause, answered, isSent }, last) => {
      look(cause);
      // The server skipped COMMIT, or never got it.
      const isRefused = !isSent || (answered < last && !isLost);
      if (isRefused) {
        isLost ||= !isSent;
        await undo();
        return { kind: "refused", cause };
      }
      release(true);
      return { kind: "ended", end: lostOrRefused(cause) };
    },
  };
}

/** What is used of pg's connection: the server's word on the transaction, behind each of its answers (ReadyForQuery). */
interface Wire {
  readonly stream: { destroy(): unknown };
  prependListener(event: "readyForQuery", listener: (message: Status) => void): unknown;
  removeListener(event: "readyForQuery", listener: (message: Status) => void): unknown;
}

interface Status {
  /** I: in no transaction. T: in one. E: in one that has failed. */
  readonly status?: string;
}

function wireOf(client: PoolClient): Partial<Wire> {
  return (client as { connection?: Partial<Wire> }).connection ?? {};
}

/** Calls back when the server is in no transaction any more, before the next statement in the client's queue is sent. */
function onceIdle(client: PoolClient, callback: () => void): () => void {
  const wire = wireOf(client);
  if (wire.prependListener === undefined) return () => undefined;
  const listener = ({ status }: Status): void => {
    if (status === "I") callback();
  };
  wire.prependListener("readyForQuery", listener);
  return () => void wire.removeListener?.("readyForQuery", listener);
}

function destroy(client: PoolClient): void {
  wireOf(client).stream?.destroy();
}

/** COMMIT of an aborted transaction succeeds with the tag ROLLBACK. */
function endOf(tag = "nothing"): Extract<SessionEnd, { kind: "committed" | "rolled_back" }> {
  if (tag === "COMMIT") return { kind: "committed" };
  return { kind: "rolled_back", cause: new Error(`COMMIT was answered with ${tag}`) };
}

/**
 * Only an error that the server sent proves that nothing was committed (a deferred constraint, a serialization failure).
 * Anything else is a lost reply.
 */
function lostOrRefused(cause: unknown): Extract<SessionEnd, { kind: "rolled_back" | "unknown" }> {
  return { kind: isAnswered(cause) ? "rolled_back" : "unknown", cause };
}

function toResult({ columns }: Carried, answer: WireAnswer | undefined): SqlResult {
  const rows = (answer?.rows ?? []).map((row) =>
    Object.fromEntries(columns.map((column, index) => [column, row[index]])),
  );
  return { rows, rowCount: rows.length };
}

/** A connection of the user's pool; one that comes too late goes straight back. */
async function connectWithin(pool: Pool, ms: number): Promise<PoolClient> {
  const connecting = pool.connect();
  try {
    return await within(connecting, ms);
  } catch (error) {
    connecting.then((client) => client.release()).catch(() => undefined);
    throw error;
  }
}

/** Most statements have none of these words, and are seen through at once. */
const mayControl = /\b(?:begin|start|commit|end|abort|prepare|rollback|close)\b/i;
const controlsTransaction =
  /(?:^|;)\s*(?:begin|start\s+transaction|commit|end|abort|prepare\s+transaction|close\s+all|rollback(?!\s+(?:(?:work|transaction)\s+)?to\b))\b/i;
const quotedOrComment =
  /--[^\n]*|\/\*[\s\S]*?\*\/|'(?:[^']|'')*'|"(?:[^"]|"")*"|\$(\w*)\$[\s\S]*?\$\1\$/g;

/**
 * The handler's view of its connection: everything but ending the transaction, giving the connection back, and any use
 * after the end. What slips through is caught by the server before the commit (see transaction-claims.ts).
 */
function guard(client: PoolClient, isEnded: () => boolean): PoolClient {
  const query = (...args: readonly unknown[]): unknown => {
    if (isEnded())
      throw new IdempotencyError("transaction_ended", { detail: "tx was used after its end." });
    const text =
      typeof args[0] === "string" ? args[0] : (args[0] as { text?: unknown } | undefined)?.text;
    if (
      typeof text === "string" &&
      mayControl.test(text) &&
      controlsTransaction.test(text.replaceAll(quotedOrComment, " "))
    ) {
      throw new IdempotencyError("transaction_ended");
    }
    return (client.query as (...all: unknown[]) => unknown).apply(client, [...args]);
  };
  const refuse = (): never => {
    throw new IdempotencyError("transaction_ended", {
      detail: "tx is given back by oncekey, not by the handler.",
    });
  };
  return new Proxy(client, {
    get(target, property) {
      if (property === "query") return query;
      if (property === "release" || property === "end") return refuse;
      const value: unknown = Reflect.get(target, property, target);
      return typeof value === "function" ? (value.bind(target) as unknown) : value;
    },
  });
}
