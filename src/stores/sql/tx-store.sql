-- tx-store: insert the completed record of a key whose lock this transaction holds since tx-begin.sql.
-- Parameters: $1 scope  $2 key  $3 claim id uuid, as text  $4 token bigint, as text  $5 guarantee  $6 fingerprint
--   $7 field hashes (json)  $8 method  $9 path  $10 request id  $11 status smallint  $12 head (json)  $13 body bytea
--   $14 replay window in ms float8  $15 dedupe window in ms float8  $16 wait hash bigint, as text
-- Rows: one with the end of the replay window in ms since 1970, and `awaited`, 1 where some process waits for the key (see
--   watch.sql). Error 23505 (unique_violation) when somebody wrote the key without taking its lock: the primary key decides.
-- Locks: the wait hash, which never waits, until the commit.
-- One write in the place of two: until here the key's lock and nothing else says that it is claimed, which nobody can tell from
-- a record that is not committed yet.
INSERT INTO :schema.idempotency_keys
  (scope, key, state, guarantee, claim_id, token, fingerprint, field_hashes, method, path, request_id, created_at,
   status, head, body, completed_at, replay_until, dedupe_until, reap_at)
SELECT $1, $2, 'completed', $5, $3::text::uuid, $4::text::bigint, $6, $7::text::json, $8, $9, $10, transaction_timestamp(),
  $11::smallint, $12::text::json, $13::bytea, c.now, c.now + $14::float8 * interval '1 millisecond',
  c.now + $15::float8 * interval '1 millisecond', c.now + $14::float8 * interval '1 millisecond'
FROM (SELECT :schema.idempotency_now() AS now) c
RETURNING floor(extract(epoch FROM replay_until) * 1000)::bigint::text AS replay_until_ms,
  (NOT pg_try_advisory_xact_lock($16::text::bigint))::int AS awaited
