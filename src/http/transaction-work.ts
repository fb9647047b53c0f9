/**
 * A transaction route's work, whatever its requests look like. Owns: the open transaction with its claim, how it is committed
 * or taken back with and without a key, and what a client is told when nothing was written. Never writes an answer.
 */
import { IdempotencyError } from "../core/errors.js";
import type { ResolvedRoute } from "../core/options.js";
import type { StoredHeader, StoredResponse } from "../core/record.js";
import type { Outcome } from "../core/request.js";
import type { TransactionAdapter } from "../core/sql-session.js";
import type { Committed } from "../core/transaction-run.js";
import { keyHeaders } from "./answer.js";
import { ClaimContext } from "./context.js";
import type { AdapterContext, IdempotencyContext, Keyed } from "./context.js";

/** What the transactions of a route are begun with. */
export interface TransactionSetup {
  /** Undefined for a request without a key: the handler still gets a transaction. */
  readonly keyed: Keyed | undefined;
  readonly route: ResolvedRoute;
  readonly using: TransactionAdapter<unknown> | undefined;
}

/** An open transaction, keyed or not. */
export interface Work {
  readonly tx: unknown;
  commit(response: StoredResponse): Promise<Committed>;
  rollback(): Promise<void>;
  /** True where the handler's author says so of a response with this status. */
  saysNothingHappened(status: number): boolean;
}

/** A transaction to work in, or why the handler must not run. */
export type BegunWork = { readonly kind: "work"; readonly work: Work } | Outcome;

/**
 * Opens the transaction and claims in it. `tries` counts the runs of this request's handler, from 1; `attach` hands the
 * handler what it sees of its claim. Rejects with `store_unavailable` for a request without a key.
 */
export async function beginWork(
  context: AdapterContext<never>,
  setup: TransactionSetup,
  tries: number,
  attach: (handle: IdempotencyContext) => void,
): Promise<BegunWork> {
  const { keyed, route, using } = setup;
  if (keyed === undefined) return { kind: "work", work: await beginUnkeyed(context, setup) };
  const begun = await context.engine.beginTransaction(keyed.request, using, tries - 1);
  if (begun.kind !== "run") return begun;
  const { run } = begun;
  const handle = new ClaimContext(run.claim, (topic, payload) => run.send(topic, payload));
  attach(handle);
  const work: Work = {
    tx: run.tx,
    rollback: () => run.rollback(),
    commit: async (response) => {
      const committed = await run.commit(response);
      if (committed.kind === "stored") ClaimContext.stored(handle, committed.replayUntilMs);
      return committed;
    },
    saysNothingHappened: (status) =>
      ClaimContext.isReleased(handle) || route.releaseOn.includes(status),
  };
  return { kind: "work", work };
}

async function beginUnkeyed(
  context: AdapterContext<never>,
  { route, using }: TransactionSetup,
): Promise<Work> {
  const open = await context.engine.openTransaction(route, using);
  return {
    tx: open.tx,
    rollback: () => open.rollback(),
    commit: async () => {
      const answer = await open.commit();
      if (answer.kind === "committed")
        return { kind: "stored", replayUntilMs: answer.replayUntilMs };
      // Without a key nobody can find out what happened, and a retry would be another request.
      const { cause } = answer;
      if (answer.kind === "unknown")
        return { kind: "not_stored", error: new IdempotencyError("outcome_unknown", { cause }) };
      if (context.engine.isConflict(cause)) return { kind: "conflict", cause };
      return { kind: "not_stored", error: new IdempotencyError("transaction_failed", { cause }) };
    },
    saysNothingHappened: () => false,
  };
}

/** The headers of a handler's own response; with a key that is free again, or with the end of its replay window. */
export function workHeaders(
  context: AdapterContext<never>,
  keyed: Keyed | undefined,
  replayUntilMs: number | undefined,
  retryable: boolean,
): readonly StoredHeader[] {
  if (keyed === undefined) return [];
  const { requestId } = keyed.request;
  return keyHeaders(
    context,
    keyed,
    replayUntilMs === undefined ? undefined : { requestId, replayUntilMs },
    retryable,
  );
}

/** Postgres refused every try for the sake of another transaction. */
export function conflictError(cause: unknown): IdempotencyError {
  return new IdempotencyError("transaction_conflict", { cause, retryAfterSeconds: 1 });
}

/** The handler's time is up. */
export function tooLateError(): IdempotencyError {
  return new IdempotencyError("transaction_failed", {
    detail:
      "The handler did not finish within transactionTimeoutMs. Nothing was written; the same key can be sent again.",
  });
}

/** One of two on one route would claim inside the other's claim. */
export function nestedError(): IdempotencyError {
  return new IdempotencyError("options_invalid", {
    detail:
      "A transaction or steps route stands behind another idempotency middleware. Use one of them on this route.",
  });
}
