-- tx-complete: store the response of a transaction route inside its transaction.
-- Parameters: $1 scope  $2 key  $3 claim id uuid  $4 token bigint  $5 status smallint  $6 head (json)  $7 body bytea
--   $8 replay window in ms float8  $9 dedupe window in ms float8  $10 wait hash bigint, as text
-- Rows: one with the end of the replay window, and `awaited` where some process waits for the key (see watch.sql); none when this is not the transaction that claimed the key (the handler
--   ended it behind our back): then nothing may be committed.
-- Locks: the row, which this very transaction wrote: xmin says so; and its wait hash, which never waits, until the commit.
UPDATE :schema.idempotency_keys k
SET state = 'completed', lease_until = NULL, status = $5, head = $6::json, body = $7, completed_at = c.now,
  replay_until = c.now + $8::float8 * interval '1 millisecond',
  dedupe_until = c.now + $9::float8 * interval '1 millisecond',
  reap_at = c.now + $8::float8 * interval '1 millisecond'
FROM (SELECT :schema.idempotency_now() AS now) c
WHERE k.scope = $1 COLLATE "C" AND k.key = $2 COLLATE "C" AND k.claim_id = $3 AND k.token = $4 AND k.state = 'running'
  AND k.xmin = pg_current_xact_id()::xid
RETURNING k.replay_until, NOT pg_try_advisory_xact_lock($10::text::bigint) AS awaited
