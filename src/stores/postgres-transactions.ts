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
import type { SqlResult, SqlSession, TransactionAdapter } from "../core/sql-session.js";
import { finishStepwise, openStepwise } from "./carrying.js";
import type { Carried, CarryingSession, Opened } from "./carrying.js";
import { asSchemaError } from "./connections.js";
import type { Connections } from "./connections.js";
import { createOutboxSender } from "./outbox-sender.js";
import { openPoolSession } from "./pool-session.js";
import { takeOverValues, txClaimValues } from "./postgres-claims.js";
import type { KeyHints } from "./postgres-hints.js";
import { toHead, toObservation } from "./rows.js";
import { isAnswered, isConflict, sqlStateOf } from "./sql-state.js";
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

/** What a claim's statement returned. */
interface Won {
  readonly token: unknown;
  readonly attempt: number;
  readonly place: string;
}

export function createTransactionSource(context: TransactionContext): TransactionSource {
  const { statements, schema } = context;
  const verified = new WeakSet<TransactionAdapter<unknown>>();

  const openVerified = async (settings: TransactionSettings, first?: Carried): Promise<Opening> => {
    const { using } = settings;
    if (using === undefined || verified.has(using)) return openSession(context, settings, first);
    const { session } = await openSession(context, settings);
    return orRollback(session, async () => {
      await verifyDatabase(context, session);
      verified.add(using);
      return { session, first: first && (await session.run(first.statement, first.values)) };
    });
  };
  const claimIn = async (
    request: ClaimRequest,
    settings: TransactionSettings,
    carried: Carried,
    read: (row: unknown) => Won,
  ): ReturnType<TransactionSource["claim"]> => {
    const { session, first } = await openVerified(settings, carried);
    return orRollback(session, async () => {
      const row = first?.rows[0];
      if (row === undefined) return refuse(session, request, settings);
      const { token, attempt, place } = read(row);
      session.claimed(place);
      const { scope, key, claimId } = request;
      const claim: Claim = { scope, key, claimId, token: Number(token), attempt };
      return { kind: "claimed", claim, open: telling(context, claim, session.open) };
    });
  };
  /**
   * What holds the key is read in a new statement: it may have been committed after the snapshot of the one that claimed. Rows
   * that a mapper gave may have been renamed and converted, so that behind one the store reads by itself.
   */
  const refuse = async (
    { run, open }: Session,
    ref: KeyRef,
    { using }: TransactionSettings,
  ): Promise<ClaimRefusal> => {
    if (using !== undefined) {
      await open.rollback();
      return toRefusal(await context.find(ref));
    }
    const result = await run(statements.find, [[ref.scope], [ref.key]]);
    await open.rollback();
    return toRefusal(observe(result.rows[0]));
  };

  return {
    claim: (request, settings) => {
      const values = txClaimValues(schema, request);
      const carried = { statement: statements["tx-claim"], values, columns: ["token", "place"] };
      return claimIn(request, settings, carried, (row) => ({
        token: column(row, "token"),
        attempt: 1,
        place: String(column(row, "place")),
      }));
    },
    takeOver: (request, observed, settings) => {
      const values = takeOverValues(schema, request, observed);
      const columns = ["token", "attempt", "request", "place"];
      return claimIn(
        request,
        settings,
        { statement: statements["take-over"], values, columns },
        (row) => ({
          token: column(row, "token"),
          attempt: Number(column(row, "attempt")),
          place: String(column(row, "place")),
        }),
      );
    },
    begin: async (settings) => (await openVerified(settings)).session.open,
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
  /** Where the row of the claim is, which `open.complete` needs. */
  claimed(place: string): void;
}

export interface Opening {
  readonly session: Session;
  /** What the first statement answered, if there was one. */
  readonly first: SqlResult | undefined;
}

/** Opens a transaction with its limits, and runs a first statement in it: on the pool all in one round trip. */
export async function openSession(
  context: TransactionContext,
  settings: TransactionSettings,
  first?: Carried,
): Promise<Opening> {
  const { session: sql, results } = await openLimited(context, settings, first).catch(
    (error: unknown) => {
      throw asSchemaError(error);
    },
  );
  const run: Session["run"] = (statement, values) => sql.query(statement, values);
  let isEnded = false;
  let place = "";
  const rollback = (): Promise<void> => {
    isEnded = true;
    return sql.rollback();
  };
  const outbox = createOutboxSender({ ...context, run, isEnded: () => isEnded });
  const refused = async (cause: unknown): Promise<CommitAnswer> => {
    await rollback();
    // Nothing was committed. Whether the connection was lost or a statement failed makes a difference to the client alone.
    const isKnown = isIdempotencyError(cause) || isAnswered(cause);
    return { kind: "rolled_back", cause: isKnown ? cause : unreachable(cause) };
  };
  const commit = async (): Promise<CommitAnswer> => {
    isEnded = true;
    const end = await sql.commit();
    outbox.wake();
    const isOver = end.kind === "rolled_back" || end.kind === "unknown";
    return isOver ? end : { kind: "committed", replayUntilMs: 0 };
  };
  const complete: OpenTransaction["complete"] = async (claim, completion) => {
    const refusal = await outbox.refusal();
    if (refusal !== undefined) return refused(refusal);
    const last = storing(context, claim, completion, place);
    if (last === undefined) return refused(new IdempotencyError("response_too_large"));
    isEnded = true;
    const finished = await sql.finish(last, readStored);
    if (finished.kind === "refused") return refused(asEnded(finished.cause));
    outbox.wake();
    if (!("read" in finished)) return finished.end;
    const { replayUntilMs, isAwaited } = finished.read;
    const answer: CommitAnswer =
      finished.end.kind === "committed"
        ? { kind: "committed", replayUntilMs }
        : await confirmByReading(context, claim);
    if (isAwaited && answer.kind === "committed") context.hints.tell([context.hints.hashOf(claim)]);
    return answer;
  };
  const session: Session = {
    run,
    claimed: (of) => {
      place = of;
    },
    open: {
      tx: sql.tx,
      rollback,
      complete,
      send: (message) => outbox.send(message),
      commit: async () => {
        if (settings.using === undefined) return commit();
        // Without a key there is nothing to be read afterwards; an aborted transaction refuses this.
        const failed = await run(probe, []).then(
          () => undefined,
          (cause: unknown) => ({ cause }),
        );
        return failed === undefined ? commit() : refused(failed.cause);
      },
    },
  };
  return { session, first: results[1] };
}

async function openLimited(
  { pool, prepare, statements }: TransactionContext,
  { using, timeoutMs, isolation = "read committed" }: TransactionSettings,
  first: Carried | undefined,
): Promise<Opened<unknown>> {
  const limits = { statement: statements["tx-begin"], values: [String(Math.round(timeoutMs))] };
  const opening = [{ ...limits, columns: [] }, ...(first === undefined ? [] : [first])];
  const settings = { isolation, timeoutMs };
  if (using === undefined) return openPoolSession(pool, prepare, settings, opening);
  const sql = await using.open(settings);
  const session: CarryingSession<unknown> = {
    tx: sql.tx,
    query: (statement, values) => sql.query(statement, values),
    commit: () => sql.commit(),
    rollback: () => sql.rollback(),
    finish: (last, read) => finishStepwise(sql, last, read),
  };
  return openStepwise(session, opening);
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

/** The statement that stores the response, or undefined where there is none to store. */
function storing(
  context: TransactionContext,
  claim: Claim,
  { response, replayWindowMs, dedupeWindowMs }: Completion,
  place: string,
): Carried | undefined {
  if (response === "not_stored") return undefined;
  return {
    statement: context.statements["tx-complete"],
    values: [
      claim.scope,
      claim.key,
      claim.claimId,
      claim.token,
      response.status,
      toHead(response),
      response.body,
      replayWindowMs,
      dedupeWindowMs,
      context.hints.hashOf(claim),
      place,
    ],
    columns: ["replay_until_ms", "awaited", "stored"],
  };
}

function readStored({ rows }: SqlResult): { replayUntilMs: number; isAwaited: boolean } {
  return {
    replayUntilMs: Number(column(rows[0], "replay_until_ms")),
    isAwaited: Number(column(rows[0], "awaited")) === 1,
  };
}

/** tx-complete.sql divides by the rows it has written, and by nothing else. */
function asEnded(cause: unknown): unknown {
  return sqlStateOf(cause) === "22012"
    ? new IdempotencyError("transaction_ended", { cause })
    : cause;
}

/**
 * A mapper hides the tag that the server gave COMMIT. After its reply the transaction is over, so that what the key holds now
 * says whether it was committed.
 */
async function confirmByReading(context: TransactionContext, claim: Claim): Promise<CommitAnswer> {
  try {
    const record = (await context.find(claim))?.record;
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
  const [ours] = await own.run(statements.epoch, []);
  if (column(theirs.rows[0], "epoch") === ours?.[0]) return;
  throw new IdempotencyError("options_invalid", {
    detail: "The transactions of `using` are on another database than the store.",
  });
}

/** A column of a row, by whatever case a mapper has given its name. */
function column(row: unknown, name: string): unknown {
  const plain = (row as Record<string, unknown> | undefined)?.[name];
  if (plain !== undefined) return plain;
  const entries = Object.entries((row ?? {}) as Record<string, unknown>);
  const bare = (text: string): string => text.replaceAll("_", "").toLowerCase();
  const found = entries.find(([key]) => bare(key) === bare(name));
  if (found !== undefined) return found[1];
  throw new IdempotencyError("options_invalid", {
    detail: `The transactions of \`using\` hide the column ${name}: something renames what statements return.`,
  });
}

/** Nothing there: gone between two statements, or held by an uncommitted claim. A retry will tell. */
function toRefusal(found: Observation | undefined): Exclude<ClaimAnswer, { kind: "claimed" }> {
  return found === undefined ? { kind: "locked" } : { kind: "exists", ...found };
}

/** A row of find.sql by the names of its columns, which pg gives in their order. */
function observe(row: unknown): Observation | undefined {
  return row === undefined ? undefined : toObservation(Object.values(row as object) as string[]);
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
      free.rowCount === 0 ? await client.query(locked, [[claim.scope], [claim.key]]) : undefined;
    await client.query("ROLLBACK");
    return observe(found?.rows[0]);
  });
}
