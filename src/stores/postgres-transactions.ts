/**
 * Transaction routes on Postgres: claim, the handler's rows and the response in one transaction and one commit, on the pool or
 * on whatever a route's adapter opens. Owns: its limits, and what a lost or an untold reply to COMMIT means. The claim of such
 * a transaction is invisible until it commits; the advisory lock tells others that it is there.
 */
import { IdempotencyError } from "../core/errors.js";
import type {
  ClaimAnswer,
  ClaimRefusal,
  OpenTransaction,
  TransactionSettings,
  TransactionSource,
} from "../core/ports.js";
import type { Claim, ClaimRequest, KeyRef, Observation } from "../core/record.js";
import type { SqlResult, TransactionAdapter } from "../core/sql-session.js";
import { asSchemaError } from "./connections.js";
import { lockHash, toObservation } from "./rows.js";
import { isConflict } from "./sql-state.js";
import { claimAtOnce, claimByTakeOver, claimWithResponse, column } from "./transaction-claims.js";
import type { TransactionClaiming } from "./transaction-claims.js";
import { openSession } from "./transaction-session.js";
import type { Opening, Session, TransactionContext } from "./transaction-session.js";

export function createTransactionSource(context: TransactionContext): TransactionSource {
  const { statements } = context;
  const verified = new WeakSet<TransactionAdapter<unknown>>();

  const openVerified = async (
    settings: TransactionSettings,
    claiming?: TransactionClaiming,
  ): Promise<Opening> => {
    const { using } = settings;
    if (using === undefined || verified.has(using)) return openSession(context, settings, claiming);
    const { session, begun } = await openSession(context, settings);
    return orRollback(session, async () => {
      await verifyDatabase(context, session);
      verified.add(using);
      const opened: SqlResult[] = [];
      for (const { statement, values } of claiming?.opening ?? [])
        opened.push(await session.run(statement, values));
      return { session, begun, opened };
    });
  };
  const claimIn = async (
    request: ClaimRequest,
    settings: TransactionSettings,
    claiming: TransactionClaiming,
  ): ReturnType<TransactionSource["claim"]> => {
    const { session, begun, opened } = await openVerified(settings, claiming);
    return orRollback(session, async () => {
      const won = claiming.won(begun, opened);
      if (won === undefined) return refuse(session, request, settings);
      session.claimed(won);
      const { scope, key, claimId } = request;
      const claim: Claim = { scope, key, claimId, token: won.token, attempt: won.attempt };
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
      const { using, isolation = "read committed" } = settings;
      const isOneWrite = using === undefined && isolation === "read committed";
      const claiming = isOneWrite
        ? claimWithResponse(context, request)
        : claimAtOnce(context, request);
      return claimIn(request, settings, claiming);
    },
    takeOver: (request, observed, settings) =>
      claimIn(request, settings, claimByTakeOver(context, request, observed)),
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
    tx: open.tx,
    send: open.send,
    commit: () => open.commit(),
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

async function orRollback<T>(session: Session, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    await session.open.rollback();
    throw asSchemaError(error);
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

/** Nothing there: gone between two statements, or held by an uncommitted claim. A retry will tell. */
function toRefusal(found: Observation | undefined): Exclude<ClaimAnswer, { kind: "claimed" }> {
  return found === undefined ? { kind: "locked" } : { kind: "exists", ...found };
}

/** A row of find.sql by the names of its columns, which pg gives in their order. */
function observe(row: unknown): Observation | undefined {
  return row === undefined ? undefined : toObservation(Object.values(row as object) as string[]);
}

function settle(context: TransactionContext, claim: Claim): Promise<Observation | undefined> {
  const { own, statements, schema, settleTimeoutMs } = context;
  return own.withClient(async (client) => {
    await client.query(own.begin);
    const limit = String(Math.round(settleTimeoutMs));
    await client.query("SELECT set_config('statement_timeout', $1, true)", [limit]);
    await client.query(statements.settle.text, [lockHash(schema, claim)]);
    const found = await client.query(statements.find.text, [[claim.scope], [claim.key]]);
    await client.query("ROLLBACK");
    return observe(found.rows[0]);
  });
}
