/**
 * Messages on their way into the outbox, as plain data. Owns: what may be sent, and the ids of events, whose derivation may
 * never change between two versions.
 */
import { createHash } from "node:crypto";
import { IdempotencyError } from "./errors.js";
import { nameOf } from "./key.js";
import type { KeyRef } from "./record.js";

/** A message as the outbox stores it. */
export interface OutboxMessage extends KeyRef {
  /** The same for the same message, however often its sender runs. */
  readonly eventId: string;
  readonly topic: string;
  /** JSON text; receivers get these very bytes. */
  readonly payload: string;
}

/** Larger things belong in a store of their own, with their address in the message. */
export const maxPayloadBytes = 256 * 1024;
/** A request that says more than this is a batch job, and its messages would all wait for each other. */
export const maxMessagesPerRequest = 1_000;

const topicForm = /^[A-Za-z0-9_.:/-]{1,255}$/;

/**
 * The id of an event: the same for every insertion of the same (scope, key) and name, and different for every other; `evt_`
 * and 43 characters. Receivers dedupe by it, also where a restored database has forgotten that it was delivered.
 */
export function outboxEventId(ref: KeyRef, name: string): string {
  if (name === "") throw new TypeError("outboxEventId needs the name of the message");
  const text = `oncekey event v1;${ref.scope.length}:${ref.key.length};${nameOf(ref)}${name}`;
  return `evt_${createHash("sha256").update(text).digest("base64url")}`;
}

/**
 * Makes a message ready to be stored.
 *
 * @param name of the message within its request, see {@link sendName}
 * @throws `message_invalid` for a topic or a payload that cannot be sent
 */
export function outboxMessage(
  ref: KeyRef,
  name: string,
  topic: string,
  payload: unknown,
): OutboxMessage {
  if (typeof topic !== "string" || !topicForm.test(topic))
    throw invalid("The topic must be 1 to 255 of A-Z a-z 0-9 _ . : / - characters.");
  const text = toJson(payload);
  const { scope, key } = ref;
  return { eventId: outboxEventId(ref, name), scope, key, topic, payload: text };
}

/** The name of a message by its position in its request, from 1. A rerun of the handler makes the same ones. */
export function sendName(position: number): string {
  if (position > maxMessagesPerRequest)
    throw invalid(`A request can send at most ${maxMessagesPerRequest} messages.`);
  return `send ${position}`;
}

/** Committing would swallow the message. Only a key that is used again after its dedupe window comes here. */
export function repeatedEvent(): IdempotencyError {
  return invalid("The outbox still holds this event from an earlier use of the same key.");
}

function toJson(payload: unknown): string {
  let text: string | undefined;
  try {
    text = JSON.stringify(payload) as string | undefined;
  } catch (cause) {
    throw invalid("The payload is no JSON value.", cause);
  }
  if (text === undefined) throw invalid("The payload is no JSON value.");
  const bytes = Buffer.byteLength(text);
  if (bytes > maxPayloadBytes)
    throw invalid(`The payload has ${bytes} bytes; the most is ${maxPayloadBytes}.`);
  return text;
}

function invalid(detail: string, cause?: unknown): IdempotencyError {
  return new IdempotencyError("message_invalid", { detail, cause });
}
