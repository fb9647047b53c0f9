-- outbox-skip: give up a message that was set aside, and make the next one of its key due.
-- Parameters: $1 event id  $2 why
-- Rows: one when skipped; none when the event is not one that was set aside.
-- Locks: the row, then the next one of its key.
WITH skipped AS (
  UPDATE :schema.idempotency_outbox o
  SET state = 'skipped', finished_at = c.now, last_error = left('skipped: ' || $2 || '; ' || o.last_error, 1000)
  FROM (SELECT :schema.idempotency_now() AS now) c
  WHERE o.event_id = $1 COLLATE "C" AND o.state = 'set_aside'
  RETURNING o.scope, o.key, o.sequence, o.finished_at
), woken AS (
  UPDATE :schema.idempotency_outbox o
  SET next_attempt_at = s.finished_at
  FROM skipped s CROSS JOIN LATERAL (
    SELECT n.event_id
    FROM :schema.idempotency_outbox n
    WHERE n.scope = s.scope AND n.key = s.key AND n.finished_at IS NULL AND n.sequence > s.sequence
    ORDER BY n.sequence
    LIMIT 1
  ) n
  WHERE o.event_id = n.event_id AND o.state = 'pending' AND o.next_attempt_at IS NULL
)
SELECT s.sequence FROM skipped s
