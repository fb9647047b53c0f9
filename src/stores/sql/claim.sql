-- claim: insert running records for keys that do not exist.
-- Parameters, arrays of one length, each key at most once, sorted by (scope, key):
--   $1 scope text[]  $2 key text[]  $3 lock hash bigint[]  $4 claim id uuid[]  $5 guarantee text[]  $6 fingerprint text[]
--   $7 field hashes text[] (json)  $8 method text[]  $9 path text[]  $10 request id text[]  $11 lease in ms float8[]
--   $12 handler text[] and $13 request text[] (json), null for all but steps routes
-- Rows: one a key, `slot` counting from 1. new_token set: claimed. state set: the key exists, its columns follow.
--   Neither, and granted false: an uncommitted claim holds the key. Neither, and granted true: somebody committed the key
--   after this statement's snapshot was taken; read it with find.sql, in a new statement.
-- Locks: the transaction-level advisory lock of each key that was not found; never waits. A key whose claim is being
--   committed elsewhere is invisible here, and inserting it would block until that transaction ends; the lock says so at
--   once. The primary key decides; two keys with one hash only cost a retry.
WITH input AS MATERIALIZED (
  SELECT i.*
  FROM unnest($1::text[], $2::text[], $3::bigint[], $4::uuid[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[],
    $10::text[], $11::float8[], $12::text[], $13::text[])
    WITH ORDINALITY AS i (scope, key, lock_hash, claim_id, guarantee, fingerprint, field_hashes, method, path, request_id,
      lease_ms, handler, request, position)
), existing AS MATERIALIZED (
  SELECT i.position, k.*
  FROM input i
  JOIN :schema.idempotency_keys k ON k.scope = i.scope COLLATE "C" AND k.key = i.key COLLATE "C"
), locked AS MATERIALIZED (
  SELECT i.*, pg_try_advisory_xact_lock(i.lock_hash) AS granted
  FROM input i
  WHERE NOT EXISTS (SELECT FROM existing e WHERE e.position = i.position)
), inserted AS (
  INSERT INTO :schema.idempotency_keys
    (scope, key, state, guarantee, claim_id, token, lease_until, fingerprint, field_hashes, method, path, request_id,
     handler, request, created_at)
  SELECT scope, key, 'running', guarantee, claim_id, nextval(':schema.idempotency_token_seq'),
    :schema.idempotency_now() + lease_ms * interval '1 millisecond', fingerprint, field_hashes::json, method, path,
    request_id, handler, request::json, :schema.idempotency_now()
  FROM locked
  WHERE granted
  ON CONFLICT (scope, key) DO NOTHING
  RETURNING scope, key, token
)
SELECT
  e.*,
  n.token AS new_token,
  l.granted,
  :schema.idempotency_now() AS now,
  i.position::int AS slot
FROM input i
LEFT JOIN existing e ON e.position = i.position
LEFT JOIN locked l ON l.position = i.position
LEFT JOIN inserted n ON n.scope = i.scope COLLATE "C" AND n.key = i.key COLLATE "C"
