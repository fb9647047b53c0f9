-- batch-find: the counts of a batch that was committed.
-- Parameters: $1 target  $2 batch id
-- Rows: one, or none when it was reaped. Reads only.
SELECT encode(digest, 'hex') AS digest, inserted::text, updated::text, unchanged::text, duplicates::text
FROM :schema.idempotency_batches
WHERE target = $1::text AND batch_id = $2::text
