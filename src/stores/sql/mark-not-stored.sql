-- mark-not-stored: note, before the first byte leaves, that a running claim's response cannot be replayed.
-- Parameters: $1 scope  $2 key  $3 claim id uuid  $4 token bigint
-- Rows: one when noted; none when the claim is lost.
-- Locks: the row. From here on a crash is an unknown outcome, whatever the route allows: bytes may have reached the client.
UPDATE :schema.idempotency_keys
SET not_stored = true
WHERE scope = $1 COLLATE "C" AND key = $2 COLLATE "C" AND claim_id = $3 AND token = $4 AND state = 'running'
RETURNING token
