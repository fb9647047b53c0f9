/** oncekey/outbox: delivers the messages that committed requests have sent. This entry imports no driver. */
export {
  outboxStats,
  reapOutbox,
  requeueMessages,
  setAsideMessages,
  skipMessage,
} from "./stores/outbox-operations.js";
export type { OutboxPlace, OutboxStats, SetAsideMessage } from "./stores/outbox-operations.js";
export { deliveryError } from "./workers/destination.js";
export type { Destination, FailureDetails, OutgoingMessage } from "./workers/destination.js";
export { outboxWorker } from "./workers/outbox.js";
export type { OutboxRound, OutboxWorker } from "./workers/outbox.js";
export type { OutboxEvent, OutboxWorkerOptions } from "./workers/outbox-options.js";
export { redisStreamDestination } from "./workers/redis-stream.js";
export type { RedisStreamOptions } from "./workers/redis-stream.js";
export { standardRetryDelaysMs } from "./workers/retry-schedule.js";
export { webhookDestination } from "./workers/webhook.js";
export type { WebhookOptions } from "./workers/webhook.js";
