-- unwatch: give up what watch took.
-- Parameters: $1 wait hash bigint[]
-- Rows: one a hash.
-- Locks: releases the session's shared advisory locks.
SELECT pg_advisory_unlock_shared(h) AS was_held
FROM unnest($1::bigint[]) AS h
