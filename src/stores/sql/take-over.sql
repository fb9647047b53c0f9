-- take-over: claim a key again that is still as it was observed.
-- Parameters: $1 scope  $2 key  $3 lock hash bigint  $4 claim id uuid  $5 guarantee  $6 fingerprint  $7 field hashes (json)
--   $8 method  $9 path  $10 request id  $11 lease in ms float8  $12 observed token bigint
--   $13 handler  $14 request (json)
-- Rows: one with the new token and attempt, and the place of the row; none when the key is not as observed, is locked, or is not over.
-- Locks: the key's transaction-level advisory lock (a transaction route's take-over stays invisible until its commit, so
--   it must be felt the way a first claim is), then the row. Neither waits: a locked row belongs to a living process.
-- Safe under concurrency: the token is in the WHERE, and every take-over draws a new one; of two takers one finds nothing.
WITH target AS MATERIALIZED (
  SELECT k.scope, k.key, k.state
  FROM :schema.idempotency_keys k
  WHERE k.scope = $1 COLLATE "C" AND k.key = $2 COLLATE "C" AND k.token = $12
    AND CASE k.state
      WHEN 'running' THEN k.lease_until <= :schema.idempotency_now()
      WHEN 'parked' THEN true
      ELSE k.dedupe_until <= :schema.idempotency_now()
    END
    AND pg_try_advisory_xact_lock($3)
  FOR UPDATE SKIP LOCKED
), cleared AS (
  -- Recovery points of a key's former life.
  DELETE FROM :schema.idempotency_steps s
  USING target t
  WHERE s.scope = t.scope AND s.key = t.key AND t.state NOT IN ('running', 'parked')
)
UPDATE :schema.idempotency_keys k
SET state = 'running',
  guarantee = CASE WHEN t.state IN ('running', 'parked') THEN k.guarantee ELSE $5 END,
  claim_id = $4,
  token = nextval(':schema.idempotency_token_seq'),
  attempt = CASE WHEN t.state IN ('running', 'parked') THEN k.attempt + 1 ELSE 1 END,
  lease_until = :schema.idempotency_now() + $11::float8 * interval '1 millisecond',
  next_attempt_at = NULL,
  fingerprint = $6, field_hashes = $7::json, method = $8, path = $9,
  -- Original-Request names the first execution, so a take-over of unfinished work keeps it.
  request_id = CASE WHEN t.state IN ('running', 'parked') THEN k.request_id ELSE $10 END,
  -- Unfinished work goes on with the request it was begun with.
  handler = CASE WHEN t.state IN ('running', 'parked') THEN k.handler ELSE $13 END,
  request = CASE WHEN t.state IN ('running', 'parked') THEN k.request ELSE $14::json END,
  failures = CASE WHEN t.state IN ('running', 'parked') THEN k.failures ELSE 0 END,
  last_error = NULL,
  not_stored = false, status = NULL, head = NULL, body = NULL,
  created_at = CASE WHEN t.state IN ('running', 'parked') THEN k.created_at ELSE :schema.idempotency_now() END,
  completed_at = NULL, replay_until = NULL, dedupe_until = NULL, reap_at = NULL
FROM target t
WHERE k.scope = t.scope AND k.key = t.key
RETURNING k.token, k.attempt, k.request, k.ctid::text AS place
