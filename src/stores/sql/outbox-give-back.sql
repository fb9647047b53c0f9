-- outbox-give-back: end a claim as if its attempt had not been begun. For a worker that stops.
-- Parameters: $1 event id  $2 token bigint
-- Rows: one when given back; none when lost or given back already.
-- Locks: the row.
UPDATE :schema.idempotency_outbox o
SET attempts = o.attempts - 1, lease_until = NULL, next_attempt_at = c.now
FROM (SELECT :schema.idempotency_now() AS now) c
WHERE o.event_id = $1 COLLATE "C" AND o.token = $2 AND o.state = 'pending' AND o.lease_until IS NOT NULL
RETURNING o.event_id
