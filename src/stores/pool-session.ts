/**
 * Transactions on a `pg.Pool`: what a transaction route runs on unless it names something else. Owns: the way of a connection
 * out of the pool and back, and what the handler may do with it.
 */
import type { Pool, PoolClient } from "pg";
import { IdempotencyError } from "../core/errors.js";
import type { SessionSettings, SqlSession, TransactionAdapter } from "../core/sql-session.js";
import { isAnswered } from "./sql-state.js";
import { limitGraceMs, within } from "./time-limit.js";

/** `prepare`: whether statements of the store are prepared under their names. */
export function poolTransactions(pool: Pool, prepare: boolean): TransactionAdapter<PoolClient> {
  return { open: (settings) => openPoolSession(pool, prepare, settings) };
}

async function openPoolSession(
  pool: Pool,
  prepare: boolean,
  { isolation, timeoutMs }: SessionSettings,
): Promise<SqlSession<PoolClient>> {
  const client = await connectWithin(pool, timeoutMs);
  // A checked-out client reports a lost connection here too; the statement under way, or the next one, rejects with it.
  const onError = (): void => undefined;
  client.on("error", onError);
  let state: "open" | "ended" = "open";
  let isLost = false;

  const release = (broken: boolean): void => {
    state = "ended";
    client.removeListener("error", onError);
    client.release(broken);
  };
  try {
    const level = isolation.toUpperCase();
    await within(client.query(`BEGIN ISOLATION LEVEL ${level} READ WRITE`), timeoutMs);
  } catch (error) {
    release(true);
    throw error;
  }
  return {
    tx: guard(client, () => state),
    query: async ({ name, text }, values) => {
      const query = { ...(prepare ? { name } : {}), text, values: [...values] };
      try {
        // The server has the same limit, and a server that hangs does not keep it.
        return await within(client.query(query), timeoutMs + limitGraceMs);
      } catch (error) {
        isLost ||= !isAnswered(error);
        throw error;
      }
    },
    rollback: async () => {
      if (state === "ended") return;
      if (isLost) return release(true);
      state = "ended";
      const ended = await within(client.query("ROLLBACK"), timeoutMs).catch(() => undefined);
      release(ended === undefined);
    },
    commit: async () => {
      state = "ended";
      try {
        const { command } = await within(client.query("COMMIT"), timeoutMs);
        release(false);
        // COMMIT of an aborted transaction succeeds with the tag ROLLBACK.
        if (command === "COMMIT") return { kind: "committed" };
        return { kind: "rolled_back", cause: new Error(`COMMIT was answered with ${command}`) };
      } catch (cause) {
        release(true);
        // Only an error that the server sent proves that nothing was committed (a deferred constraint, a serialization
        // failure). Anything else is a lost reply.
        return { kind: isAnswered(cause) ? "rolled_back" : "unknown", cause };
      }
    },
  };
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

const controlsTransaction =
  /(?:^|;)\s*(?:begin|start\s+transaction|commit|end|abort|prepare\s+transaction|rollback(?!\s+(?:(?:work|transaction)\s+)?to\b))\b/i;
const quotedOrComment =
  /--[^\n]*|\/\*[\s\S]*?\*\/|'(?:[^']|'')*'|"(?:[^"]|"")*"|\$(\w*)\$[\s\S]*?\$\1\$/g;

/**
 * The handler's view of its connection: everything but ending the transaction, giving the connection back, and any use
 * after the end. What slips through is caught before the commit (tx-complete.sql compares the transaction's id).
 */
function guard(client: PoolClient, state: () => "open" | "ended"): PoolClient {
  const query = (...args: readonly unknown[]): unknown => {
    if (state() === "ended")
      throw new IdempotencyError("transaction_ended", { detail: "tx was used after its end." });
    const text =
      typeof args[0] === "string" ? args[0] : (args[0] as { text?: unknown } | undefined)?.text;
    if (
      typeof text === "string" &&
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
