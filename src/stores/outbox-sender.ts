/**
 * The outbox as one open transaction sees it. Owns: that a transaction whose message could not be added is never committed,
 * whether or not its handler awaited the sending.
 */
import type { Pool } from "pg";
import { IdempotencyError } from "../core/errors.js";
import { repeatedEvent } from "../core/outbox-message.js";
import type { OutboxMessage } from "../core/outbox-message.js";
import { insertOutbox } from "./outbox.js";
import type { RunStatement } from "./outbox.js";
import { wakeOutbox } from "./outbox-wake.js";
import type { Statements } from "./sql-text.js";

export interface OutboxSender {
  /** Adds a message. Throws at once, and does not reject, after the end of the transaction. */
  send(message: OutboxMessage): Promise<void>;
  /**
   * Waits for what was sent and takes no more; answers why the transaction must not be committed, if so. Never rejects.
   */
  refusal(): Promise<unknown>;
  /** Call after the commit, known or not: workers of this process look at once. */
  wake(): void;
}

interface SenderOptions {
  readonly run: RunStatement;
  readonly statements: Pick<Statements, "outbox-insert">;
  readonly pool: Pool;
  readonly schema: string;
  readonly isEnded: () => boolean;
}

export function createOutboxSender(options: SenderOptions): OutboxSender {
  const sending: Promise<void>[] = [];
  let isCommitting = false;
  const assertOpen = (): void => {
    if (options.isEnded()) throw ended();
  };
  const add = async (message: OutboxMessage): Promise<void> => {
    // The handler may have failed while this one waited for its turn, and the connection may be somebody else's now.
    assertOpen();
    if ((await insertOutbox(options.run, options.statements, message)) === "added") return;
    throw repeatedEvent();
  };
  return {
    send: (message) => {
      if (isCommitting) throw ended();
      assertOpen();
      // One after another: drivers want one statement at a time, and messages leave in the order of the calls.
      const added = (sending.at(-1) ?? Promise.resolve()).then(() => add(message));
      sending.push(added);
      return added;
    },
    refusal: async () => {
      isCommitting = true;
      const settled = await Promise.allSettled(sending);
      return settled.find((result) => result.status === "rejected")?.reason;
    },
    wake: () => {
      if (sending.length > 0) wakeOutbox(options.pool, options.schema);
    },
  };
}

function ended(): IdempotencyError {
  return new IdempotencyError("transaction_ended", {
    detail: "A message was sent after the end of the transaction.",
  });
}
