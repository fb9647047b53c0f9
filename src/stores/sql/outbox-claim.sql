-- outbox-claim: take messages that are due, at most one of each key.
-- Parameters: $1 most messages  $2 lease in ms float8
-- Rows: one for each message taken, with its new token.
-- Locks: the rows, skipping locked ones, so that workers share the work and none waits for another.
-- Safe under concurrency: a message is taken only while it is the first unfinished one of its key, and taking it moves its
--   due time to the end of the lease. A worker that saw it earlier finds on locking it that it is not due any more. A lease
--   that is over makes it due again, and the new token refuses the late writes of its first holder.
-- A subquery gives the time, so that it is one value and can limit the index scan; the order is asked by a subquery too,
-- which cannot become a join over all keys. See outbox-plan for the rest of the plan.
WITH clock AS MATERIALIZED (
  SELECT :schema.idempotency_now() AS now
), due AS MATERIALIZED (
  SELECT o.event_id
  FROM :schema.idempotency_outbox o
  WHERE o.state = 'pending' AND o.next_attempt_at <= (SELECT now FROM clock)
    AND o.sequence = (
      SELECT e.sequence
      FROM :schema.idempotency_outbox e
      WHERE e.scope = o.scope AND e.key = o.key AND e.finished_at IS NULL
      ORDER BY e.sequence
      LIMIT 1
    )
  ORDER BY o.next_attempt_at, o.sequence
  LIMIT $1
  FOR UPDATE OF o SKIP LOCKED
)
UPDATE :schema.idempotency_outbox o
SET attempts = o.attempts + 1, token = nextval(':schema.idempotency_token_seq'),
  lease_until = c.now + $2::float8 * interval '1 millisecond',
  next_attempt_at = c.now + $2::float8 * interval '1 millisecond'
FROM due d, clock c
WHERE o.event_id = d.event_id
RETURNING o.event_id, o.scope, o.key, o.topic, o.payload::text AS payload, o.attempts, o.token,
  floor(extract(epoch FROM o.created_at) * 1000)::float8 AS created_at_ms, floor(extract(epoch FROM c.now) * 1000)::float8 AS now_ms
