/** oncekey/pipeline: stable keys and keyed upserts for data pipelines. This entry imports no driver. */
export type {
  BadRow,
  BatchCounts,
  BatchOptions,
  BatchQueryResult,
  InTransaction,
  SinkBatch,
  SinkDescription,
  SinkRow,
} from "./pipeline/description.js";
export { stableKey, weakEventId } from "./pipeline/stable-key.js";
export type { KeyPart, WeakId } from "./pipeline/stable-key.js";
