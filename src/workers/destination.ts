/**
 * Where messages go: the port between the worker and whatever receives. Owns: what a destination is told and what it can say
 * about a failure.
 */

/** A message as a destination gets it. */
export interface OutgoingMessage {
  /** Stable over all attempts; receivers dedupe by it. */
  readonly eventId: string;
  readonly topic: string;
  /** JSON text, exactly as it was stored. */
  readonly payload: string;
  /** Whose message it is. Messages of one (scope, key) come in their order. */
  readonly scope: string;
  readonly key: string;
  /** 1 for the first delivery. */
  readonly attempt: number;
  /** When the message was written, and when this attempt began, by the database's clock. */
  readonly createdAtMs: number;
  readonly attemptedAtMs: number;
}

/** A receiver. */
export interface Destination {
  /**
   * Resolves when the receiver has the message. A rejection is a failed attempt; {@link deliveryError} can say more about
   * it. Must settle soon after `signal` is aborted: while it goes on, nobody else may deliver the message.
   */
  deliver(message: OutgoingMessage, options: { readonly signal: AbortSignal }): Promise<void>;
}

/** What a destination can say about a failed attempt. */
export interface FailureDetails {
  /** No attempt will succeed: the message is set aside at once. Default false. */
  readonly isPermanent?: boolean;
  /** The receiver asked for this pause, in ms. The schedule counts where it is longer. */
  readonly retryAfterMs?: number | undefined;
  readonly cause?: unknown;
}

/** What became of a delivery, in words for the operator. */
export interface Failure {
  readonly text: string;
  readonly isPermanent: boolean;
  readonly retryAfterMs: number | undefined;
}

/** Two copies of the package in one process have two classes, so that the mark is a registered symbol. */
const mark = Symbol.for("oncekey.delivery");

/** Makes the error that a destination rejects with. `text` is stored and shown: never put a payload or a secret into it. */
export function deliveryError(text: string, details: FailureDetails = {}): Error {
  const { isPermanent = false, retryAfterMs, cause } = details;
  const error = new Error(text, cause === undefined ? {} : { cause });
  return Object.defineProperty(error, mark, { value: { isPermanent, retryAfterMs } });
}

export function readFailure(error: unknown): Failure {
  const text = error instanceof Error ? error.message || error.name : "the delivery failed";
  const details = (error as { [mark]?: FailureDetails } | undefined)?.[mark];
  return {
    text,
    isPermanent: details?.isPermanent ?? false,
    retryAfterMs: details?.retryAfterMs,
  };
}
