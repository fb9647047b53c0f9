-- outbox-reap: remove messages that were finished long ago, by a bounded batch.
-- Parameters: $1 ms to keep float8  $2 most rows
-- Rows: one, `removed`; the caller goes on while it equals the bound.
-- Locks: the rows, skipping locked ones, so that reapers share the work. Unfinished messages are never touched.
WITH over AS MATERIALIZED (
  SELECT o.event_id
  FROM :schema.idempotency_outbox o
  WHERE o.finished_at <= (SELECT :schema.idempotency_now() - $1::float8 * interval '1 millisecond')
  ORDER BY o.finished_at
  LIMIT $2
  FOR UPDATE SKIP LOCKED
), removed AS (
  DELETE FROM :schema.idempotency_outbox o
  USING over v
  WHERE o.event_id = v.event_id
  RETURNING 1
)
SELECT count(*)::int AS removed FROM removed
