/** oncekey/ops: what operators look at, as `oncekey status`, `inspect` and `doctor` show it. This entry imports no driver. */
export { toResponse } from "./core/reply.js";
export { examinePooler } from "./ops/doctor-pooler.js";
export type { PoolerCheck } from "./ops/doctor-pooler.js";
export { examinePostgres } from "./ops/doctor-postgres.js";
export type { PostgresCheck } from "./ops/doctor-postgres.js";
export { examineRedis } from "./ops/doctor-redis.js";
export type { RedisCheck } from "./ops/doctor-redis.js";
export type { Finding } from "./ops/finding.js";
export { inspect, scopesOf, settlementsOf } from "./ops/inspect.js";
export type {
  InspectedKey,
  InspectedResponse,
  InspectedStep,
  Settlement,
  Standing,
} from "./ops/inspect.js";
export type { OpsPlace } from "./ops/place.js";
export { status } from "./ops/status.js";
export type { KeyCount, StoreStatus, WaitingKey } from "./ops/status.js";
