-- park: end an attempt of a steps request that failed.
-- Parameters: $1 scope  $2 key  $3 claim id uuid  $4 token bigint  $5 error
--   $6 ms until the next attempt float8; null sets the request aside
-- Rows: one when parked; none when the claim is lost.
-- Locks: the row. Request and recovery points stay; whoever takes over goes on at the last one.
UPDATE :schema.idempotency_keys
SET state = 'parked', lease_until = NULL, failures = failures + 1, last_error = $5,
  next_attempt_at = :schema.idempotency_now() + $6::float8 * interval '1 millisecond'
WHERE scope = $1 COLLATE "C" AND key = $2 COLLATE "C" AND claim_id = $3 AND token = $4 AND state = 'running'
RETURNING token
