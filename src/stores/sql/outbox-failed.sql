-- outbox-failed: note that a delivery failed.
-- Parameters: $1 event id  $2 token bigint  $3 ms until the next attempt float8, NULL sets the message aside  $4 error
-- Rows: one when noted; none when lost: another worker has taken the message since.
-- Locks: the row, then the later ones of its key. Those become waiting, since nothing can be done about them before this
--   one is finished; else every look for due messages would walk over them during an outage.
WITH failed AS (
  UPDATE :schema.idempotency_outbox o
  SET state = CASE WHEN $3::float8 IS NULL THEN 'set_aside' ELSE 'pending' END,
    next_attempt_at = c.now + $3::float8 * interval '1 millisecond',
    lease_until = NULL, last_error = $4
  FROM (SELECT :schema.idempotency_now() AS now) c
  WHERE o.event_id = $1 COLLATE "C" AND o.token = $2 AND o.state = 'pending'
  RETURNING o.scope, o.key, o.sequence
), waiting AS (
  UPDATE :schema.idempotency_outbox o
  SET next_attempt_at = NULL
  FROM failed f
  WHERE o.scope = f.scope AND o.key = f.key AND o.sequence > f.sequence AND o.finished_at IS NULL
    AND o.state = 'pending' AND o.next_attempt_at IS NOT NULL
)
SELECT f.sequence FROM failed f
