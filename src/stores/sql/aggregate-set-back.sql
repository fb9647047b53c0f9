-- aggregate-set-back: put a key that cannot be computed behind all others.
-- Parameters: $1 aggregate  $2 key jsonb
-- Rows: none.
-- Locks: the caller holds the key. Marks that come meanwhile are not seen and stay; the new one takes the place of those that go.
WITH cleared AS (
  DELETE FROM :schema.idempotency_dirty_keys d
  WHERE d.aggregate = $1 AND d.key = $2::jsonb
  RETURNING 1
)
INSERT INTO :schema.idempotency_dirty_keys (aggregate, key)
SELECT $1, $2::jsonb
WHERE EXISTS (SELECT FROM cleared)
