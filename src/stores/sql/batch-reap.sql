-- batch-reap: remove ledger rows of batches that were written long ago, by a bounded batch.
-- Parameters: $1 ms to keep float8  $2 most rows
-- Rows: one, `removed`; the caller goes on while it equals the bound.
-- Locks: the rows, skipping locked ones, so that reapers share the work. A batch under way is not visible, and is never touched.
WITH over AS MATERIALIZED (
  SELECT b.target, b.batch_id
  FROM :schema.idempotency_batches b
  WHERE b.written_at <= (SELECT :schema.idempotency_now() - $1::float8 * interval '1 millisecond')
  ORDER BY b.written_at
  LIMIT $2
  FOR UPDATE SKIP LOCKED
), removed AS (
  DELETE FROM :schema.idempotency_batches b
  USING over v
  WHERE b.target = v.target AND b.batch_id = v.batch_id
  RETURNING 1
)
SELECT count(*)::int AS removed FROM removed
