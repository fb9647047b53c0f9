-- watch: say that this session waits for keys, so that whoever ends them sends a hint.
-- Parameters: $1 wait hash bigint[]
-- Rows: the hashes that were granted. One that was not belongs to a key that is being ended just now; try again.
-- Locks: a session-level shared advisory lock a hash; never waits. The transaction that completes or releases a key tries the
--   same lock exclusively: it fails while anybody waits, and where it succeeds the lock is held until that commit. So a waiter
--   that has the lock and then still sees the key running will be told, whatever the order of the two.
SELECT h::text AS hash
FROM unnest($1::bigint[]) AS h
WHERE pg_try_advisory_lock_shared(h)
