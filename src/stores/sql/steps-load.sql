-- steps-load: read the recovery points of a key.
-- Parameters: $1 scope  $2 key
-- Rows: one a step, in the handler's order.
-- Locks: none.
SELECT position, name, kind, state, result::text AS result
FROM :schema.idempotency_steps
WHERE scope = $1 COLLATE "C" AND key = $2 COLLATE "C"
ORDER BY position
