-- outbox-of-key: count the messages of a key by their state.
-- Parameters: $1 scope  $2 key
-- Rows: one for each state there is.
-- Locks: none. Finished messages have no index by key and are read whole.
SELECT state, count(*)::int AS messages
FROM :schema.idempotency_outbox
WHERE scope = $1 COLLATE "C" AND key = $2 COLLATE "C"
GROUP BY state
ORDER BY state
