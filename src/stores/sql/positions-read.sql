-- positions-read: how far a source has been read.
-- Parameters: $1 source
-- Rows: one for each partition.
-- Locks: none; the position may have moved when it is used, and positions-move will say so.
SELECT topic, part, position::text AS position FROM :schema.idempotency_positions WHERE source = $1::text
