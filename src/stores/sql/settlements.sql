-- settlements: read who settled a key, how and why.
-- Parameters: $1 scope  $2 key
-- Rows: one a settlement, oldest first. They outlive the key, so there may be some for a key that does not exist.
-- Locks: none. Settlements are few, and are read whole.
SELECT outcome, settled_by, why, floor(extract(epoch FROM settled_at) * 1000)::float8 AS settled_at_ms
FROM :schema.idempotency_settlements
WHERE scope = $1 COLLATE "C" AND key = $2 COLLATE "C"
ORDER BY id
