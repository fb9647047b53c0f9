-- batch-forget: remove the batches whose ids begin alike, so that they can be written again.
-- Parameters: $1 target  $2 first batch id  $3 the first one beyond
-- Rows: none. A batch under way is not visible, and stays.
-- Locks: the rows.
DELETE FROM :schema.idempotency_batches
WHERE target = $1::text AND batch_id >= $2::text AND batch_id < $3::text
