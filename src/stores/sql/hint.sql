-- hint: tell the processes that wait for keys to look at them.
-- Parameters: $1 wait hash bigint[]
--   $2 boolean: true where it is known that somebody waits; false asks first, for keys that no statement has ended
-- Rows: one a hint.
-- Locks: none that outlasts the statement, but NOTIFY takes a lock of the whole server while it commits. That is why it never
--   stands in a statement that completes a key, why it is sent only where somebody waits, and why its commit, which holds
--   nothing but the hint, does not wait for the disk.
WITH quick AS MATERIALIZED (
  SELECT set_config('synchronous_commit', 'off', true) AS setting
)
SELECT pg_notify('oncekey_ended', h::text)
FROM unnest($1::bigint[]) AS h, quick q
WHERE q.setting = 'off' AND ($2::boolean OR NOT pg_try_advisory_xact_lock(h))
