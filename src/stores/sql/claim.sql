-- claim: insert running records for keys that do not exist.
-- Parameters, arrays of one length, each key at most once, sorted by (scope, key):
--   $1 scope text[]  $2 key text[]  $3 lock hash bigint[]  $4 claim id uuid[]  $5 guarantee text[]  $6 fingerprint text[]
--   $7 field hashes text[] (json)  $8 method text[]  $9 path text[]  $10 request id text[]  $11 lease in ms float8[]
--   $12 handler text[] and $13 request text[] (json), null for all but steps routes
-- Rows: first one of `slot` 0: `claimed` lists the claims that were made, "claim id token" with commas between, and `refused` the
--   slots (counting from 1) of keys that an uncommitted claim holds. Then one for each key that exists, with what is
--   read of it (see rows.ts). What is in none of them was committed by somebody after this statement's snapshot was taken; read it with
--   find.sql, in a new statement.
-- Locks: the transaction-level advisory lock of each key that was not found; never waits. A key whose claim is being
--   committed elsewhere is invisible here, and inserting it would block until that transaction ends; the lock says so at
--   once. The primary key decides; two keys with one hash only cost a retry.
-- Plan: one look at the primary key for each key. Nothing is joined after that: a plan made once, for batches of any size,
--   would compare each row with each.
WITH seen AS MATERIALIZED (
  SELECT i.*, k AS found
  FROM unnest($1::text[], $2::text[], $3::bigint[], $4::uuid[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[],
    $10::text[], $11::float8[], $12::text[], $13::text[])
    WITH ORDINALITY AS i (scope, key, lock_hash, claim_id, guarantee, fingerprint, field_hashes, method, path, request_id,
      lease_ms, handler, request, position)
  LEFT JOIN :schema.idempotency_keys k ON k.scope = i.scope COLLATE "C" AND k.key = i.key COLLATE "C"
), locked AS MATERIALIZED (
  SELECT s.*, pg_try_advisory_xact_lock(s.lock_hash) AS granted
  FROM seen s
  WHERE (s.found).state IS NULL
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
  RETURNING claim_id, token
)
SELECT :record((r.found)), r.slot, r.claimed, r.refused
FROM (
  SELECT NULL:::schema.idempotency_keys AS found, 0 AS slot,
    (SELECT string_agg(n.claim_id::text || ' ' || n.token::text, ',') FROM inserted n) AS claimed,
    (SELECT string_agg(l.position::text, ',') FROM locked l WHERE NOT l.granted) AS refused
  UNION ALL
  SELECT s.found, s.position::int, NULL, NULL
  FROM seen s
  WHERE (s.found).state IS NOT NULL
) r
