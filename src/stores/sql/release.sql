-- release: give running keys back as if this claim had never been made.
-- Parameters, arrays of one length, sorted by (scope, key): $1 scope text[]  $2 key text[]  $3 claim id uuid[]
--   $4 token bigint[]  $5 wait hash bigint[];  $6 limit of waiting for a row, as of lock_timeout
-- Rows: one `slot` for each key given back, and `awaited` where some process waits for it (see watch.sql); a slot without a
--   row is lost.
-- Locks: the rows, and their wait hashes, which never waits. Completed keys are never matched, so no cached response can outlive its row.
--   A row that somebody else has locked is waited for as long as the limit says, and then all fails with lock_not_available: it
--   must not hold up the other keys of its batch. Set here, the limit costs no round trip and is gone with the statement.
-- A steps request that was taken over has recovery points of the attempts before, and without them its next attempt would do
-- all of it again: it stays, due at once. Its steps themselves never release it. Only those have a handler; asked for by their
-- guarantee, the planner would walk the index of all unfinished ones rather than take the primary key.
WITH limited AS MATERIALIZED (
  SELECT set_config('lock_timeout', $6, true)
), input AS MATERIALIZED (
  SELECT i.*
  FROM limited, unnest($1::text[], $2::text[], $3::uuid[], $4::bigint[], $5::bigint[])
    WITH ORDINALITY AS i (scope, key, claim_id, token, wait_hash, position)
), kept AS (
  UPDATE :schema.idempotency_keys k
  SET state = 'parked', lease_until = NULL, next_attempt_at = :schema.idempotency_now(), attempt = k.attempt - 1
  FROM input i
  WHERE k.scope = i.scope COLLATE "C" AND k.key = i.key COLLATE "C"
    AND k.claim_id = i.claim_id AND k.token = i.token AND k.state = 'running' AND k.handler IS NOT NULL AND k.attempt > 1
  RETURNING i.position, NOT pg_try_advisory_xact_lock(i.wait_hash) AS awaited
), deleted AS (
  DELETE FROM :schema.idempotency_keys k
  USING input i
  WHERE k.scope = i.scope COLLATE "C" AND k.key = i.key COLLATE "C"
    AND k.claim_id = i.claim_id AND k.token = i.token AND k.state = 'running'
    AND NOT (k.guarantee = 'steps' AND k.attempt > 1)
  RETURNING i.position, NOT pg_try_advisory_xact_lock(i.wait_hash) AS awaited
)
SELECT position::int AS slot, awaited::int AS awaited FROM kept
UNION ALL
SELECT position::int, awaited::int FROM deleted
