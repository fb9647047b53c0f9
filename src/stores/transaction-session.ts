/**
 * One transaction of a route, from BEGIN to COMMIT, on the pool or on whatever the route's adapter opens. Owns: its limits, its end,
 * and what is known of it where the driver does not say.
 */
import type { Pool } from "pg";
import { IdempotencyError, isIdempotencyError } from "../core/errors.js";
import type { CommitAnswer, OpenTransaction, TransactionSettings } from "../core/ports.js";
import type { Claim, Completion, KeyRef, Observation } from "../core/record.js";
import type { SqlResult, SqlSession } from "../core/sql-session.js";
import { finishStepwise, openStepwise } from "./carrying.js";
import type { Carried, CarryingSession, Opened } from "./carrying.js";
import { asSchemaError } from "./connections.js";
import type { Connections } from "./connections.js";
import { createOutboxSender } from "./outbox-sender.js";
import type { OutboxSender } from "./outbox-sender.js";
import { openPoolSession } from "./pool-session.js";
import type { KeyHints } from "./postgres-hints.js";
import { isAnswered } from "./sql-state.js";
import type { Statements } from "./sql-text.js";
import { asUnstored, noKey, readStored } from "./transaction-claims.js";
import type { Answered, TransactionClaiming, Won } from "./transaction-claims.js";

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

export interface Session {
  readonly run: SqlSession<unknown>["query"];
  readonly open: OpenTransaction;
  /** What was claimed, which `open.complete` stores the response of. From here on the transaction is the handler's. */
  claimed(won: Won): void;
}

export interface Opening {
  readonly session: Session;
  /** What tx-begin.sql answered, and the statements behind it. */
  readonly begun: SqlResult;
  readonly opened: readonly SqlResult[];
}

/** Opens a transaction with its limits, and claims in it where a key is given: on the pool all in one round trip. */
export async function openSession(
  context: TransactionContext,
  settings: TransactionSettings,
  claiming?: Pick<TransactionClaiming, "key" | "opening">,
): Promise<Opening> {
  const { session: sql, results } = await openLimited(context, settings, claiming).catch(
    (error: unknown) => {
      throw asSchemaError(error);
    },
  );
  const run: Session["run"] = (statement, values) => sql.query(statement, values);
  let isEnded = false;
  let won: Won | undefined;
  const rollback = (): Promise<void> => {
    isEnded = true;
    return sql.rollback();
  };
  // Few transactions send anything.
  let outbox: OutboxSender | undefined;
  const openOutbox = (): OutboxSender => {
    const { statements, pool, schema } = context;
    return createOutboxSender({ run, statements, pool, schema, isEnded: () => isEnded });
  };
  const refused = async (cause: unknown): Promise<CommitAnswer> => {
    await rollback();
    // Nothing was committed. Whether the connection was lost or a statement failed makes a difference to the client alone.
    const isKnown = isIdempotencyError(cause) || isAnswered(cause);
    return { kind: "rolled_back", cause: isKnown ? cause : unreachable(cause) };
  };
  const commit = async (): Promise<CommitAnswer> => {
    isEnded = true;
    const end = await sql.commit();
    outbox?.wake();
    const isOver = end.kind === "rolled_back" || end.kind === "unknown";
    return isOver ? end : { kind: "committed", replayUntilMs: 0 };
  };
  const complete: OpenTransaction["complete"] = async (claim, completion) => {
    const refusal = outbox === undefined ? undefined : await outbox.refusal();
    if (refusal !== undefined) return refused(refusal);
    if (won === undefined || !hasResponse(completion))
      return refused(new IdempotencyError("response_too_large"));
    isEnded = true;
    const last = won.store(claim, completion, context.hints.hashOf(claim));
    const finished = await sql.finish(last, readStored);
    if (finished.kind === "refused") return refused(asUnstored(finished.cause));
    outbox?.wake();
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
      won = of;
      sql.watchEnd?.();
    },
    open: {
      tx: sql.tx,
      rollback,
      complete,
      send: (message) => (outbox ??= openOutbox()).send(message),
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
  const [begun = nothing, ...opened] = results;
  return { session, begun, opened };
}

const nothing: SqlResult = { rows: [], rowCount: 0 };

function hasResponse(completion: Completion): completion is Answered {
  return completion.response !== "not_stored";
}

async function openLimited(
  { pool, prepare, statements }: TransactionContext,
  { using, timeoutMs, isolation = "read committed" }: TransactionSettings,
  claiming: Pick<TransactionClaiming, "key" | "opening"> | undefined,
): Promise<Opened<unknown>> {
  const begin: Carried = {
    statement: statements["tx-begin"],
    values: [String(Math.round(timeoutMs)), ...(claiming?.key ?? noKey)],
    columns: ["token"],
  };
  const opening = [begin, ...(claiming?.opening ?? [])];
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
