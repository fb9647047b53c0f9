-- aggregate-add-keys: see to it that keys have a row which can be locked.
-- Parameters: $1 aggregate  $2 keys jsonb[]
-- Rows: none.
-- Locks: new rows until the end of the statement, which is its own transaction; in one order, so that two never wait for each other.
INSERT INTO :schema.idempotency_aggregate_keys (aggregate, key)
SELECT $1, k.key
FROM unnest($2::jsonb[]) AS k(key)
ORDER BY k.key
ON CONFLICT DO NOTHING
