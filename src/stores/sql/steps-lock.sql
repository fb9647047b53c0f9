-- steps-lock: hold a running claim for the length of a transaction.
-- Parameters: $1 scope  $2 key  $3 claim id uuid  $4 token bigint
-- Rows: one while the claim is its holder's; none when it is lost, and then nothing may be written.
-- Locks: the key's row, shared, so that several steps of one claim can write at a time. Take-overs and heartbeats skip
--   locked rows: who holds this lock is alive.
SELECT 1
FROM :schema.idempotency_keys
WHERE scope = $1 COLLATE "C" AND key = $2 COLLATE "C" AND claim_id = $3 AND token = $4 AND state = 'running'
FOR SHARE
