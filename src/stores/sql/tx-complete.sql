-- tx-complete: store the response of a transaction route inside its transaction, or abort that transaction.
-- Parameters: $1 scope  $2 key  $3 claim id uuid  $4 token bigint  $5 status smallint  $6 head (json)  $7 body bytea
--   $8 replay window in ms float8  $9 dedupe window in ms float8  $10 wait hash bigint, as text
--   $11 place of the row as tx-claim.sql or take-over.sql returned it
-- Rows: one with the end of the replay window in ms since 1970, and `awaited`, 1 where some process waits for the key (see
--   watch.sql). Error 22012 (division_by_zero) when this is not the transaction that claimed the key (the handler ended it
--   behind our back) or the row is gone: COMMIT may be on its way behind this statement, and must find an aborted transaction.
-- Locks: the row, which this very transaction wrote: xmin says so; and its wait hash, which never waits, until the commit.
-- Plan: by the row's place, where only this transaction can have moved it, so that a plan made while the table was tiny is
--   as good as any.
WITH stored AS (
  UPDATE :schema.idempotency_keys k
  SET state = 'completed', lease_until = NULL, status = $5, head = $6::json, body = $7, completed_at = c.now,
    replay_until = c.now + $8::float8 * interval '1 millisecond',
    dedupe_until = c.now + $9::float8 * interval '1 millisecond',
    reap_at = c.now + $8::float8 * interval '1 millisecond'
  FROM (SELECT :schema.idempotency_now() AS now) c
  WHERE k.ctid = $11::text::tid AND k.scope = $1 COLLATE "C" AND k.key = $2 COLLATE "C" AND k.claim_id = $3
    AND k.token = $4 AND k.state = 'running' AND k.xmin = pg_current_xact_id()::xid
  RETURNING k.replay_until, NOT pg_try_advisory_xact_lock($10::text::bigint) AS awaited
)
SELECT floor(extract(epoch FROM max(s.replay_until)) * 1000)::bigint::text AS replay_until_ms,
  (count(*) FILTER (WHERE s.awaited))::int AS awaited,
  (1 / count(*))::int AS stored
FROM stored s
