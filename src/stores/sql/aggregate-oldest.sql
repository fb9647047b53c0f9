-- aggregate-oldest: some of the keys that must be computed anew, those of the oldest marks.
-- Parameters: $1 aggregate  $2 most marks that are looked at
-- Rows: the keys, each once, as JSON text, that of the oldest mark first: one that was set back comes behind the others.
-- Locks: none. What is answered is a hint: keys are locked, and marks looked at, by the statements that follow.
SELECT o.key::text AS key
FROM (
  SELECT d.key, d.id
  FROM :schema.idempotency_dirty_keys d
  WHERE d.aggregate = $1
  ORDER BY d.id
  LIMIT $2
) o
GROUP BY o.key
ORDER BY min(o.id)
