/**
 * Delivers the receipts of checkouts to a webhook. Without one they wait in the outbox.
 */
import type { Pool } from "pg";
import type { Logger } from "pino";
import { outboxWorker, webhookDestination } from "../outbox.js";

export interface ReceiptsOptions {
  readonly pool: Pool;
  readonly pooler: "transaction" | undefined;
  readonly url: string;
  readonly secret: string;
  readonly logger: Logger;
}

/** Starts the delivery; the returned function ends it. */
export function deliverReceipts(options: ReceiptsOptions): () => Promise<void> {
  const { pool, pooler, url, secret, logger } = options;
  const worker = outboxWorker({
    pool,
    destination: webhookDestination({ url, secret }),
    ...(pooler === undefined ? {} : { pooler }),
    // Events carry no payload and no key.
    hooks: { onEvent: (event) => logger.debug({ event: event.type }, "outbox") },
  });
  worker.start();
  return () => worker.stop();
}
