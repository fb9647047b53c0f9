/**
 * What every adapter shares, whatever its requests look like. Owns: the parts of an adapter, a request whose key has been
 * read, and what a handler sees of its claim. Knows neither Node's requests nor the web's.
 */
import type { Clock } from "../core/clock.js";
import { downstreamKey } from "../core/downstream-key.js";
import type { Engine } from "../core/engine.js";
import { IdempotencyError } from "../core/errors.js";
import type { Operations } from "../core/operations-port.js";
import type { ResolvedOptions } from "../core/options.js";
import type { KeyRef, Observation } from "../core/record.js";
import type { KeyedRequest } from "../core/request.js";

/** What a handler can learn and say about its key. */
export interface IdempotencyContext {
  readonly key: string;
  readonly scope: string;
  /** 1 for the first run; more where the route allows a rerun, and where a transaction is run again after a conflict. */
  readonly attempt: number;
  /** Fencing number: give it to what can refuse older ones. */
  readonly token: number;
  /** End of the replay window; undefined until the response is stored, since the window starts then. */
  readonly replayUntil: Date | undefined;
  /**
   * Says that nothing happened: the response is sent, is not stored, and the key can be used again. Call it before the
   * response ends.
   */
  release(): void;
  /** A key for a call to another service, the same on every attempt and different for every name. */
  downstreamKey(name: string): string;
  /**
   * Puts a message into the outbox, in the transaction of this route: a worker delivers it, at least once and in order for
   * this key, if the transaction commits. Resolves with the event's stable id. Throws at once `message_invalid`,
   * `transaction_ended`, and on plain routes `send_not_possible`.
   *
   * @param payload a JSON value of at most 256 KiB
   */
  send(topic: string, payload: unknown): Promise<string>;
}

/** What every instance can do beside making routes. */
export interface InstanceVerbs {
  /** Reads a key, or undefined. For operators' tools. */
  find(ref: KeyRef): Promise<Observation | undefined>;
  /** What operators may do to keys; undefined where the store has no such verbs. Caches are told. */
  readonly operations: Operations | undefined;
  /** Resolves when the store answers and its schema is of this version; rejects with what to do otherwise. */
  check(): Promise<void>;
  /** Takes no new keys, lets what runs complete (at most `graceMs`, default 30 s), and ends what was opened. */
  close(options?: { readonly graceMs?: number }): Promise<void>;
}

/** What the pieces of an adapter share. */
export interface AdapterContext<Request> {
  readonly engine: Engine;
  readonly clock: Clock;
  readonly options: ResolvedOptions<Request>;
}

/** A request whose key has been read. */
export interface Keyed {
  readonly request: KeyedRequest;
  /** The header as the client sent it, to echo; undefined where the key was made for it. */
  readonly sent: string | undefined;
  /** How long its client's wish lets it wait, in seconds; undefined where there was no wish. */
  readonly appliedWait?: number | undefined;
}

/** What of a claim its handler may know. */
export interface ClaimView {
  readonly scope: string;
  readonly key: string;
  readonly attempt: number;
  readonly token: number;
}

type Send = IdempotencyContext["send"];

const cannotSend: Send = () => {
  throw new IdempotencyError("send_not_possible");
};

/**
 * What a handler sees of its claim. Every request under way holds one, so that its verbs are made when they are asked for; they
 * can be taken off it.
 */
export class ClaimContext implements IdempotencyContext {
  readonly key: string;
  readonly scope: string;
  readonly attempt: number;
  readonly token: number;
  readonly #send: Send;
  #isReleased = false;
  #replayUntil: Date | undefined;

  constructor({ key, scope, attempt, token }: ClaimView, send: Send = cannotSend) {
    this.key = key;
    this.scope = scope;
    this.attempt = attempt;
    this.token = token;
    this.#send = send;
  }

  get replayUntil(): Date | undefined {
    return this.#replayUntil;
  }

  get release(): () => void {
    return () => {
      this.#isReleased = true;
    };
  }

  get downstreamKey(): (name: string) => string {
    return (name) => downstreamKey(this, name);
  }

  get send(): Send {
    return this.#send;
  }

  /** Whether the handler has said that nothing happened. Static, since it is none of the handler's business. */
  static isReleased(context: ClaimContext): boolean {
    return context.#isReleased;
  }

  /** Writes down when the replay window of the stored response ends. */
  static stored(context: ClaimContext, replayUntilMs: number): void {
    context.#replayUntil = new Date(replayUntilMs);
  }
}

/** Instances that have warned; the events tell of each request. */
const warned = new WeakSet<object>();

/** What a request has while the kill switch is on. */
export interface Unprotected {
  readonly handle: IdempotencyContext;
}

/** While `dangerouslyRunWithoutStore` is on, a keyed request runs as if it had no key, and this is what it is told. */
export function whenUnprotected(
  options: ResolvedOptions<never>,
  keyed: Keyed,
): Unprotected | undefined {
  if (!options.isUnprotected()) return undefined;
  if (!warned.has(options)) {
    warned.add(options);
    process.emitWarning(
      "dangerouslyRunWithoutStore is on: idempotency keys protect nothing, and retries run again.",
      { type: "OncekeyWarning", code: "ONCEKEY_UNPROTECTED" },
    );
  }
  options.onEvent({ type: "unprotected" });
  // Downstream keys need no store: what takes them is still called once. A token that no store gave is older than all others.
  const { scope, key } = keyed.request;
  return { handle: new ClaimContext({ scope, key, attempt: 1, token: 0 }) };
}
