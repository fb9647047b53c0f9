-- outbox-set-aside: list messages that were set aside, oldest first.
-- Parameters: $1 most rows
-- Rows: without their payloads.
-- Locks: none.
SELECT event_id, scope, key, topic, attempts, last_error,
  floor(extract(epoch FROM created_at) * 1000)::float8 AS created_at_ms
FROM :schema.idempotency_outbox
WHERE state = 'set_aside'
ORDER BY sequence
LIMIT $1
