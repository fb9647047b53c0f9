-- outbox-requeue: make messages that were set aside due now, with all their attempts before them.
-- Parameters: $1 event ids text[], NULL for all  $2 most messages
-- Rows: one event id for each message requeued.
-- Locks: the rows, skipping locked ones. Later messages of their keys go on waiting for these.
WITH chosen AS MATERIALIZED (
  SELECT o.event_id
  FROM :schema.idempotency_outbox o
  WHERE o.state = 'set_aside' AND ($1::text[] IS NULL OR o.event_id = ANY ($1::text[] COLLATE "C"))
  ORDER BY o.sequence
  LIMIT $2
  FOR UPDATE SKIP LOCKED
)
UPDATE :schema.idempotency_outbox o
SET state = 'pending', attempts = 0, next_attempt_at = k.now
FROM chosen c, (SELECT :schema.idempotency_now() AS now) k
WHERE o.event_id = c.event_id
RETURNING o.event_id
