/**
 * The Postgres store: the one that decides. Owns: one statement per transition, group commit of claims and of what their
 * holders write, and the store's own connections. Must never make a decision of policy.
 */
import type { Pool } from "pg";
import { systemClock } from "../core/clock.js";
import { nameOf } from "../core/key.js";
import type { CacheableStore, ClaimAnswer, CompleteAnswer } from "../core/ports.js";
import type { Claim, ClaimRequest, Completion, KeyRef, Observation } from "../core/record.js";
import { createBatcher } from "./batcher.js";
import {
  bigintArray,
  booleanArray,
  byteaArray,
  doubleArray,
  hashArray,
  InvalidElement,
  smallintArray,
  textArray,
  uuidArray,
} from "./binary-array.js";
import { asSchemaError, isServerAnswer, openConnections } from "./connections.js";
import type { Statement, TextRows } from "./connections.js";
import { watchEpoch } from "./epoch.js";
import { assertSchema } from "./migrate.js";
import { claimValues, readClaims, takeOverValues } from "./postgres-claims.js";
import { createKeyHints } from "./postgres-hints.js";
import { createOperations } from "./postgres-operations.js";
import { createStepsSource } from "./postgres-steps.js";
import { createTransactionSource } from "./postgres-transactions.js";
import { lockHash, recordLength, toHead, toObservation } from "./rows.js";
import { checkSchemaName, statementsFor } from "./sql-text.js";

export { assertSchema, migrate } from "./migrate.js";
export type { MigrateOptions } from "./migrate.js";
export type { CacheableStore, Store } from "../core/ports.js";

export interface PostgresStoreOptions {
  /**
   * A `pg.Pool`. Transaction routes run on its connections. The store opens 8 more of its own with the same settings, so
   * that a claim can be completed while handlers hold every connection of the pool, and a ninth while requests wait for keys
   * that run in other processes. It never ends the pool.
   */
  readonly pool: Pool;
  /** Schema of the tables. Default `public`. */
  readonly schema?: string;
  /** Milliseconds after which a statement of the store is given up. Default 5000. */
  readonly timeoutMs?: number;
  /** Named prepared statements; set to false behind a pooler that does not know them. Default true. */
  readonly prepare?: boolean;
  /**
   * Say `"transaction"` where the pool's connections go to a pooler that hands out a session for one transaction at a time, as
   * PgBouncer does with `pool_mode = transaction`. Nothing then relies on a session: settings are made inside each
   * transaction, no statement has a name (`prepare` is off), and the epoch that cached responses carry is read with each
   * statement and believed for one second, since connections to a pooler outlive a failover. Two more round trips a
   * statement. `oncekey doctor` finds such a pooler. Default: no pooler, or one that keeps sessions.
   */
  readonly pooler?: "transaction";
}

const defaultTimeoutMs = 5_000;
/** Group commit: above this the answer comes later and the throughput grows no more. */
const maxBatch = 200;
const maxInFlight = 2;
/** A server in the same region answers within it, and what gathers meanwhile costs Postgres an eighth less in one batch than in two. */
const besideAfterMs = 5;
/** Bytes of bodies in one statement, so that it ends long before its time limit and fails nobody else's. */
const maxBatchBytes = 4 * 1024 * 1024;
const maxWaiting = 20_000;
/** How long a batch waits for a row that somebody else has locked: longer than its own heartbeat may hold it on a slow disk. */
const lockWait = "250ms";
/** The same for each key of a batch that has failed for it, so that those whose rows are free come soon. */
const knownLockWait = "20ms";
/** Claims, and what is read for them; apart from the connections of holders, so that a flood of claims delays none. */
const claimConnections = 4;
const holderConnections = 4;
/** How long a failover behind a pooler may go unnoticed; within it the answers of before are replayed from the cache. */
const pooledEpochMs = 1_000;

/**
 * A durable store on Postgres 14 or later. Every promise of oncekey rests on it; a cache in front only makes it fast.
 * Needs the schema of `oncekey migrate`.
 */
export function postgresStore(options: PostgresStoreOptions): CacheableStore {
  const { pool } = options;
  const schema = checkSchemaName(options.schema ?? "public");
  const timeoutMs = options.timeoutMs ?? defaultTimeoutMs;
  const { pooler } = options;
  const prepare = pooler === undefined && (options.prepare ?? true);
  const statements = statementsFor(schema);
  const epoch = watchEpoch({
    believedMs: pooler === undefined ? Infinity : pooledEpochMs,
    refresh: () => claims.run(statements.epoch, []),
    clock: systemClock,
  });
  const shared = {
    timeoutMs,
    prepare,
    pooler,
    epochSql: statements.epoch.text,
    onEpoch: (read: string | undefined, askedAtMs: number) => epoch.read(read, askedAtMs),
    isEpochKnown: () => epoch.isKnown(),
  };
  const claims = openConnections(pool, { ...shared, max: claimConnections });
  const holders = openConnections(pool, { ...shared, max: holderConnections });
  const batching = { isPoisoned: isBadRow, maxBatch, maxInFlight, maxWaiting, besideAfterMs };

  const findAll = async (refs: readonly KeyRef[]): Promise<(Observation | undefined)[]> => {
    const values = [textArray(refs.map((ref) => ref.scope)), textArray(refs.map((ref) => ref.key))];
    const rows = await claims.run(statements.find, values);
    return bySlot(refs.length, rows, recordLength, toObservation);
  };
  const find = createBatcher<KeyRef, Observation | undefined>({
    ...batching,
    nameOf,
    send: findAll,
  });

  const claim = createBatcher<ClaimRequest, ClaimAnswer | { readonly kind: "unseen" }>({
    ...batching,
    nameOf,
    send: async (requests) => {
      const rows = await claims.run(statements.claim, claimValues(schema, requests));
      return readClaims(requests, rows);
    },
  });
  const claimOrRead = async (request: ClaimRequest): Promise<ClaimAnswer> => {
    const answer = await claim(request).catch((error: unknown) => {
      throw asSchemaError(error);
    });
    return answer.kind === "unseen" ? readAgain(request) : answer;
  };
  const readAgain = async (ref: KeyRef): Promise<ClaimAnswer> => {
    const found = await find(ref);
    // Gone between two statements: released, or a transaction's claim that is not visible yet. A retry will tell.
    return found === undefined ? { kind: "locked" } : { kind: "exists", ...found };
  };

  const hints = createKeyHints({ pool, schema, statements, timeoutMs, own: holders });
  /** Runs what ends keys, and tells those who wait for them. */
  const end = async (
    statement: Statement,
    ended: readonly Claim[],
    values: readonly unknown[],
    isAgain: boolean,
  ): Promise<TextRows> => {
    const hashes = ended.map((held) => hints.hashOf(held));
    const rows = await holders.run(statement, [
      ...values,
      hashArray(hashes),
      isAgain ? knownLockWait : lockWait,
    ]);
    const awaited = rows.filter(([, isAwaited]) => Number(isAwaited) === 1);
    hints.tell(awaited.map(([slot]) => hashes[Number(slot) - 1] as string));
    return rows;
  };
  const complete = createBatcher<{ claim: Claim; completion: Completion }, number | undefined>({
    ...batching,
    nameOf: (item) => nameOf(item.claim),
    weightOf: ({ completion: { response } }) =>
      response === "not_stored" ? 0 : response.body.byteLength,
    maxWeight: maxBatchBytes,
    send: async (items, isAgain) => {
      const ended = items.map((item) => item.claim);
      const rows = await end(statements.complete, ended, completeValues(items), isAgain);
      return bySlot(items.length, rows, 0, ([, , replayUntilMs]) => Number(replayUntilMs));
    },
  });
  const release = createBatcher<Claim, "ok" | "lost">({
    ...batching,
    nameOf,
    send: async (items, isAgain) => {
      const rows = await end(statements.release, items, holderValues(items), isAgain);
      return bySlot(items.length, rows, 0, () => "ok" as const).map((answer) => answer ?? "lost");
    },
  });

  const transactionContext = {
    pool,
    own: holders,
    schema,
    statements,
    prepare,
    settleTimeoutMs: timeoutMs,
    find,
    hints,
  };
  return {
    epoch: () => epoch.current(),
    claim: claimOrRead,
    find,
    release,
    takeOver: async (request, observed) => {
      const [row] = await claims.run(
        statements["take-over"],
        takeOverValues(schema, request, observed),
      );
      if (row === undefined) return readAgain(request);
      const { scope, key, claimId } = request;
      const [token, attempt] = row.map(Number) as [number, number];
      return { kind: "claimed", claim: { scope, key, claimId, token, attempt } };
    },
    complete: async (held, completion): Promise<CompleteAnswer> => {
      const replayUntilMs = await complete({ claim: held, completion });
      if (replayUntilMs !== undefined) return { kind: "ok", replayUntilMs };
      // An earlier try of this very write may have done it, and its reply was lost. Asked in a new statement: where that try
      // commits while this one waits for its row, this one's snapshot is too old to show it.
      const [found] = await findAll([held]);
      const mine = found?.record.claimId === held.claimId && found.record.token === held.token;
      return mine && found.record.state === "completed" && found.record.replayUntilMs !== undefined
        ? { kind: "ok", replayUntilMs: found.record.replayUntilMs }
        : { kind: "lost" };
    },
    markNotStored: async (held) => {
      const values = [held.scope, held.key, held.claimId, held.token];
      const marked = await holders.run(statements["mark-not-stored"], values);
      return marked.length === 1 ? "ok" : "lost";
    },
    heartbeat: async (held, leaseMs) => {
      const sorted = [...held].sort((a, b) => (nameOf(a) < nameOf(b) ? -1 : 1));
      const rows = await holders.run(statements.heartbeat, [...holderValues(sorted), leaseMs]);
      const alive = new Set(rows.map(([slot]) => Number(slot)));
      return sorted.filter((_, index) => !alive.has(index + 1)).map((entry) => entry.claimId);
    },
    reap: async (limit, who = "anybody") => {
      const election = who === "elected" ? lockHash(schema, { scope: "reaper", key: "" }) : null;
      const [counts] = await claims.run(statements.reap, [limit, election]);
      const [forgotten, deleted] = (counts as readonly string[]).map(Number) as [number, number];
      return { forgotten, deleted };
    },
    check: () => assertSchema({ pool, schema }),
    close: async () => {
      hints.close();
      await Promise.all([claims.close(), holders.close()]);
    },
    // LISTEN and the locks of waiters belong to a session, which such a pooler gives to nobody for long.
    ...(pooler === undefined ? { watch: (ref, onHint) => hints.watch(ref, onHint) } : {}),
    transactions: createTransactionSource(transactionContext),
    steps: createStepsSource(transactionContext, claims),
    operations: createOperations(claims, statements),
  };
}

function completeValues(items: readonly { claim: Claim; completion: Completion }[]): unknown[] {
  const responses = items.map(({ completion }) => completion.response);
  const stored = responses.map((response) => (response === "not_stored" ? undefined : response));
  return [
    ...holderValues(items.map(({ claim }) => claim)),
    booleanArray(responses.map((response) => response === "not_stored")),
    smallintArray(stored.map((response) => response?.status ?? null)),
    textArray(stored.map((response) => (response === undefined ? null : toHead(response)))),
    byteaArray(stored.map((response) => response?.body ?? null)),
    doubleArray(items.map(({ completion }) => completion.replayWindowMs)),
    doubleArray(items.map(({ completion }) => completion.dedupeWindowMs)),
  ];
}

function holderValues(claims: readonly Claim[]): unknown[] {
  return [
    textArray(claims.map((claim) => claim.scope)),
    textArray(claims.map((claim) => claim.key)),
    uuidArray(claims.map((claim) => claim.claimId)),
    bigintArray(claims.map((claim) => claim.token)),
  ];
}

/** Answers in the order of the items, whose slot is a row's column `at`; undefined where a statement gave no row. */
function bySlot<Answer>(
  count: number,
  rows: TextRows,
  at: number,
  read: (row: TextRows[number]) => Answer,
): (Answer | undefined)[] {
  const answers = Array.from<Answer | undefined>({ length: count });
  for (const row of rows) answers[Number(row[at]) - 1] = read(row);
  return answers;
}

/**
 * Data exceptions, constraint violations and a lock that was not available (of complete.sql and release.sql) belong to one row;
 * everything else belongs to the batch.
 */
function isBadRow(error: unknown): boolean {
  return (
    error instanceof InvalidElement || (isServerAnswer(error) && /^(2[23]|55P03)/.test(error.code))
  );
}
