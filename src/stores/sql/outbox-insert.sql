-- outbox-insert: add a message. Run inside the transaction whose commit decides whether it leaves.
-- Parameters: $1 event id  $2 scope  $3 key  $4 topic  $5 payload (json text)
-- Rows: one when added; none when this event is in the outbox already.
-- Locks: an advisory lock of the key until the end of the transaction, then the new row. Without it the steps of one claim
--   could commit messages in another order than that of their sequence: a later one would be on its way when an earlier one
--   appears. Two claims of one key never meet here, so nobody waits for long.
-- A message that follows another one of this very transaction begins as waiting, which keeps it out of the index of due
-- ones. Only then: an earlier message that is already visible can be finished while this transaction is not, and its
-- finisher would not see whom to wake. Inside a savepoint xmin is another number, and the message begins as due; the claim
-- asks for order in any case.
WITH turn AS MATERIALIZED (
  SELECT pg_advisory_xact_lock(hashtextextended(
    'oncekey outbox;' || length($2::text) || ':' || $2::text || $3::text,
    ':schema.idempotency_outbox'::regclass::oid::bigint))
)
INSERT INTO :schema.idempotency_outbox (event_id, scope, key, topic, payload, created_at, next_attempt_at)
SELECT $1::text, $2::text, $3::text, $4::text, $5::json, c.now,
  CASE WHEN NOT EXISTS (
    SELECT FROM :schema.idempotency_outbox e
    WHERE e.scope = $2::text COLLATE "C" AND e.key = $3::text COLLATE "C" AND e.finished_at IS NULL
      AND e.xmin = pg_current_xact_id()::xid
  ) THEN c.now END
FROM turn, (SELECT :schema.idempotency_now() AS now) c
ON CONFLICT (event_id) DO NOTHING
RETURNING event_id
