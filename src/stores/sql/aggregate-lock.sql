-- aggregate-lock: take all of these keys, waiting for those that others compute.
-- Parameters: $1 aggregate  $2 keys jsonb[]
-- Rows: the keys, as JSON text.
-- Locks: their rows, in one order, until the end of the transaction.
-- The statement that computes comes after this one, in READ COMMITTED: its snapshot is taken when the locks are held, so that
-- whoever held them before has committed, and is seen.
SELECT k.key::text AS key
FROM :schema.idempotency_aggregate_keys k
WHERE k.aggregate = $1 AND k.key = ANY ($2::jsonb[])
ORDER BY k.key
FOR UPDATE
