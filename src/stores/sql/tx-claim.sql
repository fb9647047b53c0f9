-- tx-claim: insert the running record of one key that does not exist, in the transaction of a transaction route that cannot write it with
-- its response (see transaction-claims.ts).
-- Parameters: $1 scope  $2 key  $3 lock hash bigint, as text  $4 claim id uuid, as text  $5 guarantee  $6 fingerprint
--   $7 field hashes (json)  $8 method  $9 path  $10 request id  $11 lease in ms float8
-- Rows: one with the token, and the place of the row for tx-complete.sql: claimed. None: the key exists, was committed after
--   this statement's snapshot was taken, or an uncommitted claim holds it; read it with find.sql, in a new statement, where
--   nothing found means held.
-- Locks: the key's transaction-level advisory lock, before anything is written; never waits. A key whose claim is being
--   committed elsewhere is invisible here, and inserting it would block until that transaction ends. The primary key decides.
--   Who only finds a completed key holds the lock until its rollback: that turns away claims of a key that nobody can claim,
--   and at worst a take-over, which a retry repeats.
-- Plan: nothing is scanned, so that a plan made while the table was tiny is as good as any.
INSERT INTO :schema.idempotency_keys
  (scope, key, state, guarantee, claim_id, token, lease_until, fingerprint, field_hashes, method, path, request_id, created_at)
SELECT $1, $2, 'running', $5, $4::text::uuid, nextval(':schema.idempotency_token_seq'),
  c.now + $11::float8 * interval '1 millisecond', $6, $7::text::json, $8, $9, $10, c.now
FROM (SELECT :schema.idempotency_now() AS now) c
WHERE pg_try_advisory_xact_lock($3::text::bigint)
ON CONFLICT (scope, key) DO NOTHING
RETURNING token::text AS token, ctid::text AS place
