-- reap: remove what is over, by a bounded batch.
-- Parameters: $1 most rows  $2 lock hash bigint, or null: at most one holder of it reaps at a time
-- Rows: one, (forgotten, deleted, due): `due` is how many were found; the caller goes on while it equals the bound.
-- Locks: the rows, skipping locked ones, so that reapers share the work and no claim ever waits for one.
-- Running and parked keys have no reap_at and are never touched. No answer depends on this: expiry is judged in the claim.
WITH elected AS MATERIALIZED (
  SELECT $2::bigint IS NULL OR pg_try_advisory_xact_lock($2::bigint) AS granted
), due AS MATERIALIZED (
  SELECT scope, key, dedupe_until <= :schema.idempotency_now() AS over
  FROM :schema.idempotency_keys
  -- The clock is volatile; only as a subquery it is read once and can bound an index scan.
  WHERE (SELECT granted FROM elected) AND reap_at <= (SELECT :schema.idempotency_now())
  ORDER BY reap_at
  LIMIT $1
  FOR UPDATE SKIP LOCKED
), deleted AS (
  DELETE FROM :schema.idempotency_keys k
  USING due d
  WHERE k.scope = d.scope AND k.key = d.key AND d.over
  RETURNING 1
), forgotten AS (
  UPDATE :schema.idempotency_keys k
  SET state = 'forgotten', not_stored = false, status = NULL, head = NULL, body = NULL, reap_at = k.dedupe_until
  FROM due d
  WHERE k.scope = d.scope AND k.key = d.key AND NOT d.over AND k.state = 'completed'
  RETURNING 1
), points AS (
  DELETE FROM :schema.idempotency_steps s
  USING due d
  WHERE s.scope = d.scope AND s.key = d.key AND NOT d.over
)
SELECT (SELECT count(*) FROM forgotten)::int AS forgotten, (SELECT count(*) FROM deleted)::int AS deleted,
  (SELECT count(*) FROM due)::int AS due
