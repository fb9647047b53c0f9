-- batch-list: the batches whose ids begin alike, with their counts.
-- Parameters: $1 target  $2 first batch id  $3 the first one beyond
-- Rows: one for each batch that was committed and not reaped. Reads only.
SELECT batch_id, inserted::text, updated::text, unchanged::text, duplicates::text
FROM :schema.idempotency_batches
WHERE target = $1::text AND batch_id >= $2::text AND batch_id < $3::text
