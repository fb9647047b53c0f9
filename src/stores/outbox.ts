/**
 * The outbox in Postgres: messages go in with the transaction that caused them, and come out to one worker at a time. Owns:
 * the statements of both ends. Must never decide when to try again or when to give up; the worker does.
 */
import type { Pool, QueryResult } from "pg";
import type { OutboxMessage } from "../core/outbox-message.js";
import { createBatcher } from "./batcher.js";
import { hashArray, textArray } from "./binary-array.js";
import { asSchemaError, openConnections } from "./connections.js";
import type { Statement, TextRows } from "./connections.js";
import { checkSchemaName, statementsFor } from "./sql-text.js";
import type { Statements } from "./sql-text.js";

export { outboxEventId, outboxMessage } from "../core/outbox-message.js";
export type { OutboxMessage } from "../core/outbox-message.js";
export { wakeOutbox } from "./outbox-wake.js";

/** A message in the hands of a worker. */
export interface ClaimedMessage extends OutboxMessage {
  /** Fencing number: what is noted under an older one is refused. */
  readonly token: string;
  /** 1 for the first delivery. */
  readonly attempt: number;
  readonly createdAtMs: number;
  /** The database's clock at the claim. */
  readonly claimedAtMs: number;
}

/** What a worker asks of the outbox. `lost`: another worker has taken the message since, and nothing was written. */
export interface Outbox {
  /** Takes messages that are due, at most one of each key and only the first unfinished one. */
  claim(limit: number, leaseMs: number): Promise<readonly ClaimedMessage[]>;
  delivered(message: ClaimedMessage): Promise<"ok" | "lost">;
  /** `retryInMs` undefined sets the message aside, and later ones of its key wait for an operator. */
  failed(
    message: ClaimedMessage,
    error: string,
    retryInMs: number | undefined,
  ): Promise<"ok" | "lost">;
  /** Ends a claim as if its attempt had not been begun. */
  giveBack(message: ClaimedMessage): Promise<"ok" | "lost">;
  /** Removes at most `limit` messages that were finished more than `keepMs` ago; answers how many. */
  reap(keepMs: number, limit: number): Promise<number>;
  close(): Promise<void>;
}

export interface OutboxOptions {
  readonly pool: Pool;
  readonly schema: string;
  readonly timeoutMs: number;
  readonly prepare: boolean;
  readonly pooler?: "transaction" | undefined;
}

const connections = 3;
const maxBatch = 200;
const maxWaiting = 20_000;
/** The column's own limit is 1,000 characters. */
const maxErrorLength = 500;

/** Runs a statement on some session. */
export type RunStatement = (
  statement: Statement,
  values: readonly unknown[],
) => Promise<Pick<QueryResult, "rowCount">>;

/** The parameters of outbox-insert.sql. */
export function outboxValues(message: OutboxMessage): readonly string[] {
  const { eventId, scope, key, topic, payload } = message;
  return [eventId, scope, key, topic, payload];
}

/**
 * Adds a message in the transaction of the session. Who calls it holds the claim of the key, and adds the messages of one
 * key one after another. `exists`: the outbox holds this event already, and nothing was added.
 */
export async function insertOutbox(
  run: RunStatement,
  statements: Pick<Statements, "outbox-insert">,
  message: OutboxMessage,
): Promise<"added" | "exists"> {
  const result = await run(statements["outbox-insert"], outboxValues(message));
  return result.rowCount === 1 ? "added" : "exists";
}

/** Opens connections of its own, since handlers may hold every one of the pool. */
export function openOutbox(options: OutboxOptions): Outbox {
  const statements = statementsFor(checkSchemaName(options.schema));
  const own = openConnections(options.pool, {
    max: connections,
    timeoutMs: options.timeoutMs,
    prepare: options.prepare,
    pooler: options.pooler,
    epochSql: statements.epoch.text,
    onEpoch: () => undefined,
    isEpochKnown: () => true,
  });
  const run = (statement: Statement, values: readonly unknown[]): Promise<TextRows> =>
    own.run(statement, values).catch((error: unknown) => {
      throw asSchemaError(error);
    });
  const write = async (statement: Statement, values: readonly unknown[]): Promise<"ok" | "lost"> =>
    (await run(statement, values)).length === 0 ? "lost" : "ok";

  const delivered = createBatcher<ClaimedMessage, "ok" | "lost">({
    nameOf: (message) => message.eventId,
    isPoisoned: () => false,
    maxBatch,
    maxInFlight: 1,
    maxWaiting,
    send: async (messages) => {
      const values = [
        textArray(messages.map(({ eventId }) => eventId)),
        hashArray(messages.map(({ token }) => token)),
      ];
      const rows = await run(statements["outbox-delivered"], values);
      const done = new Set(rows.map(([slot]) => Number(slot)));
      return messages.map((_, index) => (done.has(index + 1) ? "ok" : "lost"));
    },
  });

  return {
    claim: (limit, leaseMs) =>
      own
        .withClient(async (client) => {
          await client.query(`${own.begin}; ${statements["outbox-plan"].text}`);
          const { name, text } = statements["outbox-claim"];
          const query = { ...(options.prepare ? { name } : {}), text, values: [limit, leaseMs] };
          const result = await client.query<ClaimedRow>(query);
          await client.query("COMMIT");
          return result.rows.map(toClaimed);
        })
        .catch((error: unknown) => {
          throw asSchemaError(error);
        }),
    delivered,
    failed: ({ eventId, token }, error, retryInMs) => {
      const text = error.slice(0, maxErrorLength).replaceAll("\0", " ");
      return write(statements["outbox-failed"], [eventId, token, retryInMs ?? null, text]);
    },
    giveBack: ({ eventId, token }) => write(statements["outbox-give-back"], [eventId, token]),
    reap: async (keepMs, limit) => {
      const [row] = await run(statements["outbox-reap"], [keepMs, limit]);
      return Number(row?.[0]);
    },
    close: () => own.close(),
  };
}

interface ClaimedRow {
  readonly event_id: string;
  readonly scope: string;
  readonly key: string;
  readonly topic: string;
  readonly payload: string;
  readonly attempts: number;
  readonly token: string;
  readonly created_at_ms: number;
  readonly now_ms: number;
}

function toClaimed(row: ClaimedRow): ClaimedMessage {
  return {
    eventId: row.event_id,
    scope: row.scope,
    key: row.key,
    topic: row.topic,
    payload: row.payload,
    token: row.token,
    attempt: row.attempts,
    createdAtMs: row.created_at_ms,
    claimedAtMs: row.now_ms,
  };
}
