-- needs-operator: name the keys that stay as they are until somebody settles them.
-- Parameters: $1 most rows
-- Rows: oldest first. Set aside, or running with the lease over and nobody who may go on (see status.sql).
-- Locks: none. Reads the whole table.
SELECT k.scope, k.key, k.state, k.method, k.path,
  floor(extract(epoch FROM k.created_at) * 1000)::float8 AS created_at_ms
FROM :schema.idempotency_keys k, (SELECT :schema.idempotency_now() AS now OFFSET 0) c
WHERE k.lease_until <= c.now AND (k.not_stored OR k.guarantee NOT IN ('rerun', 'steps'))
  OR k.state = 'parked' AND k.next_attempt_at IS NULL
ORDER BY k.created_at
LIMIT $1
