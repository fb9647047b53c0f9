/**
 * A claimed transaction route, from claim to commit. Owns: what a lost reply to COMMIT means.
 */
import type { EngineOptions, KeyedRequest } from "./request.js";
import { IdempotencyError, isIdempotencyError } from "./errors.js";
import { outboxMessage, sendName } from "./outbox-message.js";
import type { OpenTransaction } from "./ports.js";
import type { Claim, StoredResponse } from "./record.js";
import { attemptFor } from "./retry.js";

/** What became of the transaction. Only with `stored` may the handler's bytes be sent. */
export type Committed =
  | { readonly kind: "stored"; readonly replayUntilMs: number }
  /** There is no stored answer to send; the error says what is known. */
  | { readonly kind: "not_stored"; readonly error: IdempotencyError }
  /** Nothing was written, for the sake of another transaction: run again, the handler can succeed. */
  | { readonly kind: "conflict"; readonly cause: unknown };

export interface TransactionRun {
  readonly claim: Claim;
  readonly guarantee: "transaction";
  /** The handler's view of the transaction. */
  readonly tx: unknown;
  /**
   * Adds a message that leaves if this transaction commits, and answers its event id. What is wrong with it is thrown and not
   * rejected: a caller who does not await must not commit without it.
   */
  send(topic: string, payload: unknown): Promise<string>;
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
  let sent = 0;
  const { replayWindowMs, dedupeWindowMs } = request.route;

  const unavailable = (cause: unknown): Committed => ({
    kind: "not_stored",
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
        if (context.store.transactions?.isConflict(cause)) return { kind: "conflict", cause };
        const error = isIdempotencyError(cause)
          ? cause
          : new IdempotencyError("transaction_failed", { cause });
        return { kind: "not_stored", error };
      }
      default:
        return answer satisfies never;
    }
  };

  return {
    claim,
    guarantee: "transaction",
    tx: open.tx,
    send: (topic, payload) => {
      if (open.send === undefined) throw new IdempotencyError("send_not_possible");
      const message = outboxMessage(claim, sendName(sent + 1), topic, payload);
      const added = open.send(message).then(() => message.eventId);
      sent += 1;
      // An insertion that fails takes the transaction with it, also where nobody awaits this.
      added.catch(() => undefined);
      return added;
    },
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
