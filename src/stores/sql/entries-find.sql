-- entries-find: which entries of a stream have been stored.
-- Parameters: $1 source  $2 entry ids
-- Rows: one for each that was.
-- Locks: none.
SELECT entry FROM :schema.idempotency_entries WHERE source = $1::text AND entry = ANY ($2::text[])
