-- entries-note: note entries of a stream as stored, in the transaction that stores their rows.
-- Parameters: $1 source  $2 entry ids
-- Rows: one for each entry that was not noted before. Fewer than were given: another consumer has stored one, and this
--   transaction must be rolled back.
-- Locks: the entries' keys until the end; a second consumer of the same entry waits here.
INSERT INTO :schema.idempotency_entries (source, entry, stored_at)
SELECT $1::text, entry, :schema.idempotency_now() FROM unnest($2::text[]) AS entry ORDER BY entry
ON CONFLICT (source, entry) DO NOTHING
RETURNING entry
