-- status: count keys, for operators.
-- Rows: one for each state and guarantee there is. `abandoned`: running and the lease is over; of these `unknown` stay so until
--   somebody settles them. `set_aside`: parked without a next attempt. `due`: steps requests that a completer would take now.
--   `reapable`: rows with something to remove. Ages in ms by the server's clock.
-- Locks: none. Reads the whole table: for people and slow polls, not for every request.
SELECT k.state, k.guarantee, count(*)::float8 AS keys,
  count(*) FILTER (WHERE k.lease_until <= c.now)::float8 AS abandoned,
  count(*) FILTER (WHERE k.lease_until <= c.now
    AND (k.not_stored OR k.guarantee NOT IN ('rerun', 'steps')))::float8 AS unknown,
  count(*) FILTER (WHERE k.state = 'parked' AND k.next_attempt_at IS NULL)::float8 AS set_aside,
  count(*) FILTER (WHERE k.guarantee = 'steps' AND coalesce(k.lease_until, k.next_attempt_at) <= c.now)::float8 AS due,
  count(*) FILTER (WHERE k.reap_at <= c.now)::float8 AS reapable,
  extract(epoch FROM max(c.now - k.lease_until) FILTER (WHERE k.lease_until <= c.now))::float8 * 1000 AS abandoned_for_ms,
  extract(epoch FROM max(c.now - coalesce(k.lease_until, k.next_attempt_at)) FILTER (WHERE k.guarantee = 'steps'
    AND coalesce(k.lease_until, k.next_attempt_at) <= c.now))::float8 * 1000 AS due_for_ms
FROM :schema.idempotency_keys k, (SELECT :schema.idempotency_now() AS now OFFSET 0) c
GROUP BY k.state, k.guarantee
ORDER BY k.state, k.guarantee
