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
export { recomputeAggregate } from "./pipeline/aggregate.js";
export type { Aggregate } from "./pipeline/aggregate.js";
export type {
  AggregateKey,
  AggregateOptions,
  BackfillOptions,
  BackfillProgress,
  DayTimeZone,
  RecomputeCounts,
  TimeZoneChange,
} from "./pipeline/aggregate-options.js";
export {
  contentEncodings,
  decodeContent,
  isEncodingError,
  readContentEncoding,
} from "./pipeline/content-encoding.js";
export type { ContentEncoding } from "./pipeline/content-encoding.js";
export type { RecordBlock, RecordFault, RecordFaultCode } from "./pipeline/record-block.js";
export { readRecords } from "./pipeline/records.js";
export type { ReadRecordsOptions } from "./pipeline/records.js";
export { aggregateWorker } from "./workers/aggregates.js";
export type {
  AggregateEvent,
  AggregateWorker,
  AggregateWorkerOptions,
} from "./workers/aggregates.js";
export { jsonText } from "./pipeline/encoders.js";
export type { JsonText } from "./pipeline/encoders.js";
export { forgetBatches, listBatches } from "./pipeline/batch-ledger.js";
export type { BatchPrefix } from "./pipeline/batch-ledger.js";
export { describeTable, textRows } from "./pipeline/text-rows.js";
export type { ReadText, TableFacts, TextRows } from "./pipeline/text-rows.js";
export { reapBatches } from "./pipeline/reap-batches.js";
export type { ReapBatchesOptions } from "./pipeline/reap-batches.js";
export type { UpsertSinkOptions } from "./pipeline/sink-options.js";
export { upsertSink } from "./pipeline/upsert-sink.js";
export type { SinkWritable, UpsertSink } from "./pipeline/upsert-sink.js";
export { folderStorage } from "./pipeline/merge-storage.js";
export type { MergeStorage } from "./pipeline/merge-storage.js";
export type {
  DeltaEngine,
  MergeEngine,
  RunStatement,
  StatementEngine,
} from "./pipeline/merge-engine.js";
export { databricksStatements, hiveStatements } from "./pipeline/merge-statements.js";
export type { MergeSinkOptions } from "./pipeline/merge-options.js";
export { mergeSink } from "./pipeline/merge-sink.js";
export type { MergeCounts, MergeSink } from "./pipeline/merge-sink.js";
export { kafkaSource } from "./pipeline/kafka-source.js";
export type {
  KafkaConsumer,
  KafkaMessage,
  KafkaSourceOptions,
  Source,
} from "./pipeline/kafka-source.js";
export { redisStreamSource } from "./pipeline/redis-source.js";
export type { RedisStreamSourceOptions, StreamEntry } from "./pipeline/redis-source.js";
export type { Decoding, OpenSink, PoisonMessage, SourceSink } from "./pipeline/source-batch.js";
