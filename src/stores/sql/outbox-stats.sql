-- outbox-stats: count what is not finished.
-- Rows: one. `waiting` messages stand behind an earlier one of their key; `oldest_ms` is the age of the oldest pending one.
-- Locks: none. Reads unfinished messages only.
SELECT
  count(*) FILTER (WHERE o.state = 'pending')::int AS pending,
  count(*) FILTER (WHERE o.lease_until > c.now)::int AS in_flight,
  count(*) FILTER (WHERE o.state = 'pending' AND o.lease_until IS NULL AND o.attempts > 0)::int AS retrying,
  count(*) FILTER (WHERE o.state = 'pending' AND o.next_attempt_at IS NULL)::int AS waiting,
  count(*) FILTER (WHERE o.state = 'set_aside')::int AS set_aside,
  extract(epoch FROM c.now - min(o.created_at) FILTER (WHERE o.state = 'pending'))::float8 * 1000 AS oldest_ms
FROM (SELECT :schema.idempotency_now() AS now) c
LEFT JOIN :schema.idempotency_outbox o ON o.finished_at IS NULL
GROUP BY c.now
