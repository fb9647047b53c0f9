-- positions-move: move partitions on, each from where this consumer believes it to be.
-- Parameters: $1 source  $2 topics  $3 partitions  $4 positions of now  $5 new positions (four arrays of one length)
-- Rows: one for each partition that was moved. Fewer than were given: somebody else has moved one, so this consumer has lost
--   its partition and its transaction must be rolled back.
-- Locks: the rows of the partitions until the transaction ends. A second consumer waits here, and then finds another position.
UPDATE :schema.idempotency_positions AS p
   SET position = given.upto, moved_at = :schema.idempotency_now()
  FROM unnest($2::text[], $3::integer[], $4::bigint[], $5::bigint[]) AS given (topic, part, since, upto)
 WHERE p.source = $1::text AND p.topic = given.topic AND p.part = given.part AND p.position = given.since
RETURNING p.topic, p.part
