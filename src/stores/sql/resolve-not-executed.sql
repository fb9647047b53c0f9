-- resolve-not-executed: settle an unknown outcome by giving the key back.
-- Parameters: $1 scope  $2 key  $3 observed token bigint  $4 by  $5 why
-- Rows: one when settled; none when the key is not as observed, or its holder lives.
-- Locks: the row. A process that comes back later finds its claim gone, and can store nothing.
WITH settled AS (
  DELETE FROM :schema.idempotency_keys k
  WHERE k.scope = $1 COLLATE "C" AND k.key = $2 COLLATE "C" AND k.token = $3
    AND (k.state = 'running' AND k.lease_until <= :schema.idempotency_now()
      OR k.state = 'parked' AND k.next_attempt_at IS NULL)
  RETURNING k.scope, k.key, k.claim_id, k.token
)
INSERT INTO :schema.idempotency_settlements (scope, key, claim_id, token, outcome, settled_by, why, settled_at)
SELECT scope, key, claim_id, token, 'not_executed', $4, $5, :schema.idempotency_now() FROM settled
RETURNING token
