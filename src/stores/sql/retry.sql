-- retry: make a parked steps request due now.
-- Parameters: $1 scope  $2 key  $3 observed token bigint  $4 by  $5 why
-- Rows: one when due; none when the key is not parked as observed.
-- Locks: the row.
WITH settled AS (
  UPDATE :schema.idempotency_keys k
  SET next_attempt_at = :schema.idempotency_now(), attempt = 1, failures = 0
  WHERE k.scope = $1 COLLATE "C" AND k.key = $2 COLLATE "C" AND k.token = $3 AND k.state = 'parked'
  RETURNING k.scope, k.key, k.claim_id, k.token
)
INSERT INTO :schema.idempotency_settlements (scope, key, claim_id, token, outcome, settled_by, why, settled_at)
SELECT scope, key, claim_id, token, 'retried', $4, $5, :schema.idempotency_now() FROM settled
RETURNING token
