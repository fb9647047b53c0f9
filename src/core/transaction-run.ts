/**
 * A claimed transaction route, from claim to commit. Owns: what a lost reply to COMMIT means.
 */
import type { EngineOptions, KeyedRequest } from "./request.js";
import { IdempotencyError, isIdempotencyError } from "./errors.js";
import type { OpenTransaction } from "./ports.js";
import type { Claim, StoredResponse } from "./record.js";
import { attemptFor } from "./retry.js";

/** What became of the transaction. Only with `stored` may the handler's bytes be sent. */
export type Committed =
  | { readonly kind: "stored"; readonly replayUntilMs: number }
  /** Nothing was written, and the key is free again. */
  | { readonly kind: "rolled_back"; readonly error: IdempotencyError };

export interface TransactionRun {
  readonly claim: Claim;
  readonly guarantee: "transaction";
  /** The handler's view of the transaction. */
  readonly tx: unknown;
  /** Stores the response and commits. Never rejects. */
  commit(response: StoredResponse): Promise<Committed>;
  /** Ends the transaction without a trace and frees the key. Never rejects. */
  rollback(): Promise<void>;
}

interface TransactionRunInput {
  readonly claim: Claim;
  readonly open: OpenTransaction;
  readonly request: KeyedRequest;
  readonly startedMs: number;
  readonly end: () => void;
}

export function createTransactionRun(
  context: EngineOptions,
  input: TransactionRunInput,
): TransactionRun {
  const { clock, onEvent } = context;
  const { claim, open, request, end } = input;
  const { replayWindowMs, dedupeWindowMs } = request.route;

  const unavailable = (cause: unknown): Committed => ({
    kind: "rolled_back",
    error: new IdempotencyError("store_unavailable", { cause, retryAfterSeconds: 1 }),
  });

  /** The connection was lost during COMMIT: asked on a fresh one, never guessed. */
  const settle = async (cause: unknown): Promise<Committed> => {
    onEvent({ type: "store_error", during: "commit", error: cause });
    const settled = await attemptFor(clock, context.completeTimeoutMs, async () =>
      context.store.transactions?.settle(claim, { replayWindowMs, dedupeWindowMs }),
    );
    // Not known yet: the retry will see what was committed, or run.
    if (settled.kind === "gave_up") return unavailable(settled.error);
    const record = settled.answer?.record;
    const mine = record?.claimId === claim.claimId && record.state === "completed";
    return mine && record.replayUntilMs !== undefined
      ? { kind: "stored", replayUntilMs: record.replayUntilMs }
      : unavailable(cause);
  };

  const commit = async (response: StoredResponse): Promise<Committed> => {
    const answer = await open.complete(claim, { response, replayWindowMs, dedupeWindowMs });
    switch (answer.kind) {
      case "committed":
        return { kind: "stored", replayUntilMs: answer.replayUntilMs };
      case "unknown":
        return settle(answer.cause);
      case "rolled_back": {
        const { cause } = answer;
        const error = isIdempotencyError(cause)
          ? cause
          : new IdempotencyError("transaction_failed", { cause });
        return { kind: "rolled_back", error };
      }
      default:
        return answer satisfies never;
    }
  };

  return {
    claim,
    guarantee: "transaction",
    tx: open.tx,
    commit: async (response) => {
      try {
        const committed = await commit(response);
        const durationMs = clock.monotonicMs() - input.startedMs;
        if (committed.kind === "stored") {
          onEvent({
            type: "completed",
            guarantee: "transaction",
            status: response.status,
            durationMs,
          });
        }
        return committed;
      } finally {
        end();
      }
    },
    rollback: async () => {
      await open.rollback();
      onEvent({ type: "released", guarantee: "transaction" });
      end();
    },
  };
}
