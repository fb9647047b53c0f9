-- steps-list: name the recovery points of a key, for operators.
-- Parameters: $1 scope  $2 key
-- Rows: one a step, in the handler's order, without its result.
-- Locks: none.
SELECT position, name, kind, state, floor(extract(epoch FROM recorded_at) * 1000)::float8 AS recorded_at_ms
FROM :schema.idempotency_steps
WHERE scope = $1 COLLATE "C" AND key = $2 COLLATE "C"
ORDER BY position
