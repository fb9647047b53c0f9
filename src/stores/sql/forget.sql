-- forget: erase the stored response of a completed key, and keep the key.
-- Parameters: $1 scope  $2 key  $3 by  $4 why
-- Rows: one when erased; none when the key is not completed.
-- Locks: the row. The key stays remembered through its dedupe window, so that nothing runs twice.
WITH settled AS (
  UPDATE :schema.idempotency_keys k
  SET state = 'forgotten', not_stored = false, status = NULL, head = NULL, body = NULL, field_hashes = '{}',
    last_error = NULL, reap_at = k.dedupe_until
  WHERE k.scope = $1 COLLATE "C" AND k.key = $2 COLLATE "C" AND k.state = 'completed'
  RETURNING k.scope, k.key, k.claim_id, k.token
), points AS (
  DELETE FROM :schema.idempotency_steps s USING settled e WHERE s.scope = e.scope AND s.key = e.key
)
INSERT INTO :schema.idempotency_settlements (scope, key, claim_id, token, outcome, settled_by, why, settled_at)
SELECT scope, key, claim_id, token, 'forgotten', $3, $4, :schema.idempotency_now() FROM settled
RETURNING token
