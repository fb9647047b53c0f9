/**
 * Transaction routes on Postgres: claim, the handler's rows and the response in one transaction and one commit, on the pool or
 * on whatever a route's adapter opens. Owns: its limits, and what a lost or an untold reply to COMMIT means. The claim of such
 * a transaction is invisible until it commits; the advisory lock tells others that it is there.
 */
import type { Pool } from "pg";
import { IdempotencyError, isIdempotencyError } from "../core/errors.js";
import type {
  ClaimAnswer,
  ClaimRefusal,
  CommitAnswer,
  OpenTransaction,
  TransactionSettings,
  TransactionSource,
} from "../core/ports.js";
import type { Claim, ClaimRequest, Completion, KeyRef, Observation } from "../core/record.js";
import type { SqlSession, TransactionAdapter } from "../core/sql-session.js";
import { asSchemaError } from "./connections.js";
import type { Connections } from "./connections.js";
import { createOutboxSender } from "./outbox-sender.js";
import { poolTransactions } from "./pool-session.js";
import type { KeyHints } from "./postgres-hints.js";
import { claimValues, readClaimRow, takeOverValues } from "./postgres-claims.js";
import type { ClaimRow } from "./postgres-claims.js";
import { toHead, toObservation } from "./rows.js";
import type { KeyRow } from "./rows.js";
import { isAnswered, isConflict } from "./sql-state.js";
import type { Statements } from "./sql-text.js";

export interface TransactionContext {
  readonly pool: Pool;
  readonly own: Connections;
  readonly schema: string;
  readonly statements: Statements;
  readonly prepare: boolean;
  /** How long settling may wait for the in-doubt transaction. */
  readonly settleTimeoutMs: number;
  /** Reads a key on the store's own connections. */
  readonly find: (ref: KeyRef) => Promise<Observation | undefined>;
  /** Told of keys that have ended. */
  readonly hints: Pick<KeyHints, "hashOf" | "tell" | "tellAnybody">;
}

export function createTransactionSource(context: TransactionContext): TransactionSource {
  const { statements, schema } = context;
  const verified = new WeakSet<TransactionAdapter<unknown>>();

  const openVerified = async (settings: TransactionSettings): Promise<Session> => {
    const session = await openSession(context, settings);
    const { using } = settings;
    if (using === undefined || verified.has(using)) return session;
    return orRollback(session, async () => {
      await verifyDatabase(context, session);
      verified.add(using);
      return session;
    });
  };
  const claimIn = async (
    settings: TransactionSettings,
    work: (session: Session) => Promise<Claim | ClaimRefusal>,
  ): ReturnType<TransactionSource["claim"]> => {
    const session = await openVerified(settings);
    const answer = await orRollback(session, () => work(session));
    if ("claimId" in answer)
      return { kind: "claimed", claim: answer, open: telling(context, answer, session.open) };
    await session.open.rollback();
    return answer;
  };
  /** Rows that a mapper gave may have been renamed and converted; what a key holds is read by the store itself. */
  const readOwn = async (session: Session, ref: KeyRef): Promise<ClaimRefusal> => {
    await session.open.rollback();
    return toRefusal(await context.find(ref));
  };
  const readAgain = async (session: Session, ref: KeyRef): Promise<ClaimRefusal> => {
    const result = await session.run(statements.find, [[ref.scope], [ref.key]]);
    const row = result.rows[0] as KeyRow | undefined;
    return toRefusal(row === undefined ? undefined : toObservation(row));
  };

  return {
    claim: (request, settings) =>
      claimIn(settings, async (session) => {
        const result = await session.run(statements.claim, claimValues(schema, [request]));
        const row = result.rows[0];
        if (settings.using !== undefined) {
          const token = column(row, "new_token");
          if (token === null) return readOwn(session, request);
          return toClaim(request, token, 1);
        }
        const answer = readClaimRow(request, row as ClaimRow);
        if (answer.kind === "claimed") return answer.claim;
        // Committed after this statement's snapshot: a new statement sees it.
        return answer.kind === "unseen" ? readAgain(session, request) : answer;
      }),
    takeOver: (request, observed, settings) =>
      claimIn(settings, async (session) => {
        const values = takeOverValues(schema, request, observed);
        const result = await session.run(statements["take-over"], values);
        const row = result.rows[0];
        if (row !== undefined)
          return toClaim(request, column(row, "token"), Number(column(row, "attempt")));
        return settings.using === undefined
          ? readAgain(session, request)
          : readOwn(session, request);
      }),
    begin: async (settings) => (await openVerified(settings)).open,
    settle: (claim) => settle(context, claim),
    isConflict,
  };
}

/** Where nothing was committed, no statement of the transaction can have found out whether anybody waits. */
function telling(
  { hints }: TransactionContext,
  claim: Claim,
  open: OpenTransaction,
): OpenTransaction {
  return {
    ...open,
    complete: async (held, completion) => {
      const answer = await open.complete(held, completion);
      if (answer.kind !== "committed") hints.tellAnybody(claim);
      return answer;
    },
    rollback: async () => {
      await open.rollback();
      hints.tellAnybody(claim);
    },
  };
}

export interface Session {
  readonly run: SqlSession<unknown>["query"];
  readonly open: OpenTransaction;
}

export async function openSession(
  context: TransactionContext,
  settings: TransactionSettings,
): Promise<Session> {
  const { statements, pool, prepare } = context;
  const { timeoutMs, isolation = "read committed" } = settings;
  const adapter = settings.using ?? poolTransactions(pool, prepare);
  const sql = await adapter.open({ isolation, timeoutMs });
  const run: Session["run"] = (statement, values) => sql.query(statement, values);
  try {
    await run(statements["tx-begin"], [String(Math.round(timeoutMs))]);
  } catch (error) {
    await sql.rollback();
    throw error;
  }
  let isEnded = false;
  const rollback = (): Promise<void> => {
    isEnded = true;
    return sql.rollback();
  };
  const outbox = createOutboxSender({ ...context, run, isEnded: () => isEnded });
  const refused = async (cause: unknown): Promise<CommitAnswer> => {
    await rollback();
    // COMMIT was never sent. Whether the connection was lost or a statement failed makes a difference to the client alone.
    const isKnown = isIdempotencyError(cause) || isAnswered(cause);
    return { kind: "rolled_back", cause: isKnown ? cause : unreachable(cause) };
  };
  const commit = async (
    replayUntilMs: number | undefined,
    confirm: () => Promise<CommitAnswer>,
  ): Promise<CommitAnswer> => {
    isEnded = true;
    const end = await sql.commit();
    outbox.wake();
    if (end.kind === "rolled_back" || end.kind === "unknown") return end;
    const isTold = end.kind === "committed" && replayUntilMs !== undefined;
    return isTold ? { kind: "committed", replayUntilMs } : confirm();
  };
  return {
    run,
    open: {
      tx: sql.tx,
      rollback,
      send: (message) => outbox.send(message),
      commit: async () => {
        const trusted: CommitAnswer = { kind: "committed", replayUntilMs: 0 };
        if (settings.using === undefined) return commit(0, async () => trusted);
        // Without a key there is nothing to be read afterwards; an aborted transaction refuses this.
        const failed = await run(probe, []).then(
          () => undefined,
          (cause: unknown) => ({ cause }),
        );
        return failed === undefined ? commit(0, async () => trusted) : refused(failed.cause);
      },
      complete: async (claim, completion) => {
        const refusal = await outbox.refusal();
        if (refusal !== undefined) return refused(refusal);
        const stored = await storeResponse(run, context, claim, completion).catch(
          (cause: unknown) => ({ cause }),
        );
        if ("cause" in stored) return refused(stored.cause);
        const replayUntilMs = stored.replayUntil?.getTime();
        const answer = await commit(replayUntilMs, () => confirmByReading(context, claim));
        if (stored.isAwaited && answer.kind === "committed")
          context.hints.tell([context.hints.hashOf(claim)]);
        return answer;
      },
    },
  };
}

const probe = { name: "oncekey_tx-probe", text: "SELECT 1 AS alive" } as const;

function unreachable(cause: unknown): IdempotencyError {
  return new IdempotencyError("store_unavailable", { cause, retryAfterSeconds: 1 });
}

async function orRollback<T>(session: Session, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    await session.open.rollback();
    throw asSchemaError(error);
  }
}

/** The end of the replay window, or why the response cannot be stored in this transaction. */
async function storeResponse(
  run: Session["run"],
  context: TransactionContext,
  claim: Claim,
  completion: Completion,
): Promise<
  | { readonly replayUntil: Date | undefined; readonly isAwaited: boolean }
  | { readonly cause: unknown }
> {
  const { response } = completion;
  if (response === "not_stored") return { cause: new IdempotencyError("response_too_large") };
  const result = await run(context.statements["tx-complete"], [
    claim.scope,
    claim.key,
    claim.claimId,
    claim.token,
    response.status,
    toHead(response),
    response.body,
    completion.replayWindowMs,
    completion.dedupeWindowMs,
    context.hints.hashOf(claim),
  ]);
  if (result.rows.length === 0) return { cause: new IdempotencyError("transaction_ended") };
  const until = column(result.rows[0], "replay_until");
  const awaited = column(result.rows[0], "awaited");
  return {
    replayUntil: until instanceof Date ? until : undefined,
    // Mappers that know no booleans give a number.
    isAwaited: awaited === true || awaited === 1,
  };
}

/**
 * A mapper hides the tag that the server gave COMMIT. After its reply the transaction is over, so that what the key holds now
 * says whether it was committed.
 */
async function confirmByReading(context: TransactionContext, claim: Claim): Promise<CommitAnswer> {
  try {
    const found = await context.own.run(context.statements.find, [[claim.scope], [claim.key]]);
    const row = found.rows[0] as KeyRow | undefined;
    const record = row === undefined ? undefined : toObservation(row).record;
    const isMine = record?.claimId === claim.claimId && record.state === "completed";
    return isMine && record.replayUntilMs !== undefined
      ? { kind: "committed", replayUntilMs: record.replayUntilMs }
      : { kind: "rolled_back", cause: new Error("COMMIT was answered with ROLLBACK") };
  } catch (cause) {
    return { kind: "unknown", cause };
  }
}

/** A claim in another database would protect nothing: keys of plain routes and all replays are read from the store's. */
async function verifyDatabase(context: TransactionContext, session: Session): Promise<void> {
  const { own, statements } = context;
  const theirs = await session.run(statements.epoch, []);
  const ours = await own.run(statements.epoch, []);
  if (column(theirs.rows[0], "epoch") === column(ours.rows[0], "epoch")) return;
  throw new IdempotencyError("options_invalid", {
    detail: "The transactions of `using` are on another database than the store.",
  });
}

/** A column of a row, by whatever case a mapper has given its name. */
function column(row: unknown, name: string): unknown {
  const entries = Object.entries((row ?? {}) as Record<string, unknown>);
  const bare = (text: string): string => text.replaceAll("_", "").toLowerCase();
  const found = entries.find(([key]) => bare(key) === bare(name));
  if (found !== undefined) return found[1];
  throw new IdempotencyError("options_invalid", {
    detail: `The transactions of \`using\` hide the column ${name}: something renames what statements return.`,
  });
}

function toClaim({ scope, key, claimId }: ClaimRequest, token: unknown, attempt: number): Claim {
  return { scope, key, claimId, token: Number(token), attempt };
}

/** Nothing there: gone between two statements, or held by an uncommitted claim. A retry will tell. */
function toRefusal(found: Observation | undefined): Exclude<ClaimAnswer, { kind: "claimed" }> {
  return found === undefined ? { kind: "locked" } : { kind: "exists", ...found };
}

function settle(context: TransactionContext, claim: Claim): Promise<Observation | undefined> {
  return context.own.withClient(async (client) => {
    await client.query(context.own.begin);
    const limit = String(Math.round(context.settleTimeoutMs));
    await client.query("SELECT set_config('statement_timeout', $1, true)", [limit]);
    // Waits for a transaction that inserted the key ...
    const free = await client.query(context.statements.settle.text, [
      claim.scope,
      claim.key,
      claim.claimId,
    ]);
    // ... and this for one that took over a row that was there.
    const locked = `${context.statements.find.text} FOR UPDATE OF k`;
    const found =
      free.rowCount === 0
        ? await client.query<KeyRow>(locked, [[claim.scope], [claim.key]])
        : undefined;
    await client.query("ROLLBACK");
    const row = found?.rows[0];
    return row === undefined ? undefined : toObservation(row);
  });
}
