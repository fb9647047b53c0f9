/**
 * What people ask of the outbox: how full it is, what was set aside and why, and what to do about it. Owns: reading and the
 * two ways on for a message that was set aside. Never reads a payload.
 */
import type { Pool, QueryResultRow } from "pg";
import { asSchemaError } from "./connections.js";
import { ownRows } from "./own-types.js";
import { checkSchemaName, statementsFor } from "./sql-text.js";
import type { StatementName } from "./sql-text.js";

/** Where the outbox is. */
export interface OutboxPlace {
  readonly pool: Pool;
  /** Schema of the tables. Default `public`. */
  readonly schema?: string;
}

/** Counts of messages that are not finished. */
export interface OutboxStats {
  /** All that will be delivered without anybody's help, unless it waits for one that was set aside. */
  readonly pending: number;
  /** Of these: in the hands of a worker. */
  readonly inFlight: number;
  /** Of these: failed before, and due again later. */
  readonly retrying: number;
  /** Of these: behind an earlier message of their key. */
  readonly waiting: number;
  /** Given up after the last attempt, or refused by the receiver: they need an operator. */
  readonly setAside: number;
  /** Age of the oldest pending message in ms; undefined when there is none. */
  readonly oldestMs: number | undefined;
}

/** A message that needs an operator. */
export interface SetAsideMessage {
  readonly eventId: string;
  readonly scope: string;
  readonly key: string;
  readonly topic: string;
  readonly attempts: number;
  readonly lastError: string;
  readonly createdAt: Date;
}

interface StatsRow {
  readonly pending: number;
  readonly in_flight: number;
  readonly retrying: number;
  readonly waiting: number;
  readonly set_aside: number;
  readonly oldest_ms: number | null;
}

interface SetAsideRow {
  readonly event_id: string;
  readonly scope: string;
  readonly key: string;
  readonly topic: string;
  readonly attempts: number;
  readonly last_error: string;
  readonly created_at_ms: number;
}

const defaultListed = 100;
/** One statement holds its locks only for as long as this many rows take. */
const defaultBatch = 1_000;
const day = 86_400_000;
/** Long enough to answer "was it sent?", short enough to keep the table small. */
export const defaultKeepDeliveredMs = 7 * day;

/** Counts what is not finished. Its cost grows with that, and not with what was delivered. */
export async function outboxStats(place: OutboxPlace): Promise<OutboxStats> {
  const [found] = await run<StatsRow>(place, "outbox-stats", []);
  const row = found as StatsRow;
  return {
    pending: row.pending,
    inFlight: row.in_flight,
    retrying: row.retrying,
    waiting: row.waiting,
    setAside: row.set_aside,
    oldestMs: row.oldest_ms ?? undefined,
  };
}

/** Lists messages that were set aside, oldest first; `limit` is 100 unless given. */
export async function setAsideMessages(
  options: OutboxPlace & { readonly limit?: number },
): Promise<readonly SetAsideMessage[]> {
  const values = [options.limit ?? defaultListed];
  const rows = await run<SetAsideRow>(options, "outbox-set-aside", values);
  return rows.map((row) => ({
    eventId: row.event_id,
    scope: row.scope,
    key: row.key,
    topic: row.topic,
    attempts: row.attempts,
    lastError: row.last_error,
    createdAt: new Date(row.created_at_ms),
  }));
}

/**
 * Makes messages that were set aside due now, with all their attempts before them: those named, or the oldest `limit`
 * (1,000 unless given). Answers how many.
 */
export async function requeueMessages(
  options: OutboxPlace & { readonly eventIds?: readonly string[]; readonly limit?: number },
): Promise<number> {
  const limit = options.limit ?? options.eventIds?.length ?? defaultBatch;
  return (await run(options, "outbox-requeue", [options.eventIds ?? null, limit])).length;
}

/**
 * Gives up a message that was set aside, so that the later ones of its key go on without it. `why` is kept with it.
 * `refused`: it is not one that was set aside.
 */
export async function skipMessage(
  options: OutboxPlace & { readonly eventId: string; readonly why: string },
): Promise<"ok" | "refused"> {
  const skipped = await run(options, "outbox-skip", [options.eventId, options.why]);
  return skipped.length === 0 ? "refused" : "ok";
}

/**
 * Removes messages that were finished more than `keepDeliveredMs` ago (default 7 days), at most `limit` (default 1,000) in
 * one statement; answers how many. Workers do it by themselves.
 */
export async function reapOutbox(
  options: OutboxPlace & { readonly keepDeliveredMs?: number; readonly limit?: number },
): Promise<number> {
  const values = [options.keepDeliveredMs ?? defaultKeepDeliveredMs, options.limit ?? defaultBatch];
  const [row] = await run<{ removed: number }>(options, "outbox-reap", values);
  return (row as { removed: number }).removed;
}

async function run<Row extends QueryResultRow>(
  { pool, schema }: OutboxPlace,
  name: StatementName,
  values: readonly unknown[],
): Promise<readonly Row[]> {
  const { text } = statementsFor(checkSchemaName(schema ?? "public"))[name];
  return ownRows<Row>(pool, text, values).catch((error: unknown) => {
    throw asSchemaError(error);
  });
}
