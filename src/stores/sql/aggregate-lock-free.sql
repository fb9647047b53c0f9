-- aggregate-lock-free: take those of these keys that nobody computes.
-- Parameters: $1 aggregate  $2 keys jsonb[]  $3 most keys
-- Rows: the keys taken, as JSON text.
-- Locks: their rows until the end of the transaction, skipping locked ones, so that workers share the work. Who holds a key now took
-- its snapshot at some time; marks that it did not see stay, and their key is taken by a later pass.
SELECT k.key::text AS key
FROM :schema.idempotency_aggregate_keys k
WHERE k.aggregate = $1 AND k.key = ANY ($2::jsonb[])
ORDER BY k.key
LIMIT $3
FOR UPDATE SKIP LOCKED
