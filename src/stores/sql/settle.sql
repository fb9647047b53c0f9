-- settle: wait for whatever transaction holds a key, and leave no trace. Run inside a transaction that is rolled back.
-- Parameters: $1 scope  $2 key  $3 claim id uuid
-- Rows: one when the key was free, that is when the in-doubt transaction did not commit; none when the key exists.
-- Locks: inserting the same primary key waits for the in-doubt transaction to end, which a SELECT would not.
INSERT INTO :schema.idempotency_keys
  (scope, key, state, guarantee, claim_id, token, lease_until, fingerprint, field_hashes, method, path, request_id, created_at)
VALUES ($1, $2, 'running', 'transaction', $3, 0, :schema.idempotency_now(), '', '{}', '', '', '', :schema.idempotency_now())
ON CONFLICT (scope, key) DO NOTHING
RETURNING token
