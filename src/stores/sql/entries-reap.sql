-- entries-reap: remove notes of entries that were stored long ago.
-- Parameters: $1 age in ms
-- Rows: one for each note that was removed, at most 1,000.
-- Locks: the removed rows; notes that somebody else removes are skipped.
DELETE FROM :schema.idempotency_entries
 WHERE (source, entry) IN (
   SELECT source, entry FROM :schema.idempotency_entries
    WHERE stored_at < :schema.idempotency_now() - $1::bigint * interval '1 ms'
    ORDER BY stored_at LIMIT 1000 FOR UPDATE SKIP LOCKED)
RETURNING entry
