-- batch-end: put the counts to a batch's ledger row, just before COMMIT.
-- Parameters: $1 target  $2 batch id  $3 inserted  $4 updated  $5 unchanged  $6 duplicates
-- Rows: always one; anything else is a division by zero, so that the COMMIT right behind it commits nothing.
-- Locks: the row, which this transaction has inserted.
WITH counted AS (
  UPDATE :schema.idempotency_batches
  SET inserted = $3::bigint, updated = $4::bigint, unchanged = $5::bigint, duplicates = $6::bigint
  WHERE target = $1::text AND batch_id = $2::text AND inserted IS NULL
  RETURNING 1
)
SELECT 1 / count(*) AS counted FROM counted
