-- outbox-delivered: note that messages were delivered, and make the next one of each key due.
-- Parameters, arrays of one length, each event at most once, sorted by event id: $1 event id text[]  $2 token bigint[]
-- Rows: one `slot`, counting from 1, for each message that is delivered under this token, also where it was already (the
--   reply was lost). A slot without a row is lost: another worker has taken the message since.
-- Locks: the rows, then the next ones of their keys, which nobody else writes while an earlier one is unfinished.
WITH input AS MATERIALIZED (
  SELECT i.*
  FROM unnest($1::text[], $2::bigint[]) WITH ORDINALITY AS i (event_id, token, position)
), clock AS MATERIALIZED (
  SELECT :schema.idempotency_now() AS now
), done AS (
  UPDATE :schema.idempotency_outbox o
  SET state = 'delivered', finished_at = c.now, next_attempt_at = NULL, lease_until = NULL, last_error = NULL
  FROM input i, clock c
  WHERE o.event_id = i.event_id COLLATE "C" AND o.token = i.token AND o.state = 'pending'
  RETURNING i.position, o.scope, o.key, o.sequence
), woken AS (
  UPDATE :schema.idempotency_outbox o
  SET next_attempt_at = c.now
  FROM clock c, done d CROSS JOIN LATERAL (
    SELECT n.event_id
    FROM :schema.idempotency_outbox n
    WHERE n.scope = d.scope AND n.key = d.key AND n.finished_at IS NULL AND n.sequence > d.sequence
    ORDER BY n.sequence
    LIMIT 1
  ) n
  WHERE o.event_id = n.event_id AND o.state = 'pending' AND o.next_attempt_at IS NULL
)
SELECT d.position::int AS slot FROM done d
UNION ALL
SELECT i.position::int
FROM input i
JOIN :schema.idempotency_outbox o ON o.event_id = i.event_id COLLATE "C"
WHERE o.token = i.token AND o.state = 'delivered'
