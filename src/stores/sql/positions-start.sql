-- positions-start: give partitions that nobody has read their first position.
-- Parameters: $1 source  $2 topics  $3 partitions  $4 positions (three arrays of one length)
-- Rows: none.
-- Locks: the new rows. A position that is there is never touched, so a consumer that comes late changes nothing.
INSERT INTO :schema.idempotency_positions (source, topic, part, position, moved_at)
SELECT $1::text, topic, part, position, :schema.idempotency_now()
  FROM unnest($2::text[], $3::integer[], $4::bigint[]) AS given (topic, part, position)
    ON CONFLICT (source, topic, part) DO NOTHING
