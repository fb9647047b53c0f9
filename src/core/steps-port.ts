/**
 * What steps routes ask of a store beside claims: recovery points, attempts that failed, and work that nobody does. Every
 * write names its claim, and a claim that was taken over writes nothing.
 */
import type { OutboxMessage } from "./outbox-message.js";
import type { Claim, KeyRecord, TransactionLimits } from "./record.js";

export type StepKind = "transaction" | "call" | "send";

/** Names a step of one request. */
export interface StepRef {
  /** In the handler's order, from 0. */
  readonly position: number;
  readonly name: string;
  readonly kind: StepKind;
}

/** A stored recovery point. `intended`: a call that must not be repeated was about to be made. */
export interface RecordedStep extends StepRef {
  readonly state: "intended" | "done";
  /** The serialised result, a JSON value. */
  readonly result: unknown;
}

/** What came of a step's transaction. */
export type StepCommit = "committed" | "lost" | "not_committed";

export interface StepsSource {
  /** The recovery points of a key, in the handler's order. */
  load(claim: Claim): Promise<readonly RecordedStep[]>;
  /**
   * Runs `work` in a transaction that holds the claim, and commits its rows together with the serialised result it returns.
   * `lost`: the claim is another's, and nothing was written. `not_committed`: the connection was lost, and it is certain that
   * nothing was written. Rejects with what `work` throws, after a rollback, and where it cannot be settled what was written.
   */
  transaction(
    claim: Claim,
    step: StepRef,
    limits: TransactionLimits,
    work: (tx: unknown) => Promise<string>,
  ): Promise<StepCommit>;
  /** Stores that a call is about to be made. */
  intend(claim: Claim, step: StepRef): Promise<"ok" | "lost">;
  /** Stores a result, as JSON text. */
  save(claim: Claim, step: StepRef, result: string): Promise<"ok" | "lost">;
  /** Stores a message in the outbox together with its recovery point. */
  send(claim: Claim, step: StepRef, message: OutboxMessage): Promise<"ok" | "lost">;
  /** Ends an attempt that failed. `retryInMs` undefined sets the request aside. */
  park(claim: Claim, error: string, retryInMs: number | undefined): Promise<"ok" | "lost">;
  /** Claims requests of these handlers whose lease is over or whose next attempt is due; one for each claim id at most. */
  claimDue(
    handlers: readonly string[],
    claimIds: readonly string[],
    leaseMs: number,
  ): Promise<readonly KeyRecord[]>;
}
