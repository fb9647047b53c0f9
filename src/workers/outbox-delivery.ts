/**
 * One delivery of one claimed message. Owns: its time, what its end means, and noting that in the outbox. Must never write
 * while the destination may still be at work: the lease keeps others away until then.
 */
import { attemptFor } from "../core/retry.js";
import type { ClaimedMessage, Outbox } from "../stores/outbox.js";
import { readFailure } from "./destination.js";
import type { OutgoingMessage } from "./destination.js";
import type { ResolvedWorker } from "./outbox-options.js";
import { retryDelayMs } from "./retry-schedule.js";

/** What a delivery needs to know. */
export interface DeliveryContext {
  readonly options: ResolvedWorker;
  readonly outbox: Outbox;
  /** Aborted when the worker's time to stop is up: destinations end what they do. */
  readonly stopped: AbortSignal;
  /** Aborted when the worker has gone: nobody waits for a destination that did not end. */
  readonly closed: AbortSignal;
}

/** What became of a message; `unsettled` ones are delivered again when their lease is over. */
export type Delivered = "delivered" | "failed" | "set_aside" | "given_back" | "lost" | "unsettled";

type Ending =
  | { readonly kind: "delivered" }
  | { readonly kind: "failed"; readonly error: unknown }
  | { readonly kind: "overrun" };

/** The rest of the lease is for noting what came of it. */
const deliveryShare = 0.75;

/**
 * Delivers a message and notes what came of it. Never rejects.
 *
 * @param startedMs monotonic time of this process, taken before the message was claimed
 */
export async function deliver(
  context: DeliveryContext,
  message: ClaimedMessage,
  startedMs: number,
): Promise<Delivered> {
  const { options, outbox, stopped } = context;
  const { clock, leaseMs, onEvent, retryDelaysMs } = options;
  const { topic, attempt } = message;
  const usedMs = (): number => clock.monotonicMs() - startedMs;

  /** Repeated as long as the lease keeps others away: nothing that was delivered shall be so again for a lost reply. */
  const note = async (
    during: string,
    write: () => Promise<"ok" | "lost">,
    then: Delivered,
  ): Promise<Delivered> => {
    const noted = await attemptFor(clock, Math.max(1, leaseMs - usedMs()), write);
    if (noted.kind === "gave_up") {
      onEvent({ type: "store_error", during, error: noted.error });
      return "unsettled";
    }
    if (noted.answer === "ok") return then;
    onEvent({ type: "lost", topic });
    return "lost";
  };
  const setAside = async (
    because: "exhausted" | "permanent" | "abandoned",
    text: string,
    error: unknown,
  ): Promise<Delivered> => {
    const noted = await note("failed", () => outbox.failed(message, text, undefined), "set_aside");
    if (noted === "set_aside") onEvent({ type: "set_aside", topic, attempt, because, error });
    return noted;
  };

  // The last attempt was begun and nobody knows its end. A message that ends its process must not do so for ever.
  if (attempt > retryDelaysMs.length + 1) {
    const text = "the process of the last attempt went away before it could say what came of it";
    return setAside("abandoned", text, new Error(text));
  }
  const ending = await runDelivery(context, message, usedMs);
  switch (ending.kind) {
    case "delivered": {
      const durationMs = usedMs();
      const ageMs = message.claimedAtMs - message.createdAtMs + durationMs;
      const noted = await note("delivered", () => outbox.delivered(message), "delivered");
      if (noted === "delivered") onEvent({ type: "delivered", topic, attempt, ageMs, durationMs });
      return noted;
    }
    case "failed": {
      const { error } = ending;
      if (stopped.aborted) return note("give_back", () => outbox.giveBack(message), "given_back");
      const failure = readFailure(error);
      if (failure.isPermanent) return setAside("permanent", failure.text, error);
      const { retryAfterMs } = failure;
      const retryInMs = retryDelayMs(retryDelaysMs, attempt, clock.random(), retryAfterMs);
      if (retryInMs === undefined) return setAside("exhausted", failure.text, error);
      const write = () => outbox.failed(message, failure.text, retryInMs);
      const noted = await note("failed", write, "failed");
      if (noted === "failed") onEvent({ type: "failed", topic, attempt, retryInMs, error });
      return noted;
    }
    case "overrun":
      onEvent({ type: "overrun", topic });
      return "unsettled";
    default:
      return ending satisfies never;
  }
}

async function runDelivery(
  { options, stopped, closed }: DeliveryContext,
  message: ClaimedMessage,
  usedMs: () => number,
): Promise<Ending> {
  const { clock, leaseMs, destination } = options;
  const ended = new AbortController();
  const timeUp = new AbortController();
  const over = AbortSignal.any([ended.signal, closed]);
  void clock
    .sleep(Math.max(0, leaseMs * deliveryShare - usedMs()), over)
    .then(() => timeUp.abort());
  const signal = AbortSignal.any([stopped, timeUp.signal]);
  const run = async (): Promise<Ending> => {
    try {
      await destination.deliver(toOutgoing(message), { signal });
      return { kind: "delivered" };
    } catch (error) {
      return { kind: "failed", error };
    }
  };
  // A destination that does not listen to the signal keeps its message until another worker may take it: nothing is
  // written, and the lease runs out.
  const leaseOver = clock
    .sleep(Math.max(0, leaseMs - usedMs()), over)
    .then((): Ending => ({ kind: "overrun" }));
  const ending = await Promise.race([run(), leaseOver]);
  ended.abort();
  return ending;
}

function toOutgoing(message: ClaimedMessage): OutgoingMessage {
  const { eventId, topic, payload, scope, key, attempt, createdAtMs, claimedAtMs } = message;
  return {
    eventId,
    topic,
    payload,
    scope,
    key,
    attempt,
    createdAtMs,
    attemptedAtMs: claimedAtMs,
  };
}
