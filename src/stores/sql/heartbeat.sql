-- heartbeat: extend the leases of running claims.
-- Parameters, arrays of one length, sorted by (scope, key): $1 scope text[]  $2 key text[]  $3 claim id uuid[]
--   $4 token bigint[];  $5 lease in ms float8
-- Rows: one `slot` for each claim that is still its holder's. A slot without a row is lost.
-- Locks: the rows, skipping locked ones: a locked row is being written by its own holder, and locked means alive.
WITH input AS MATERIALIZED (
  SELECT i.*
  FROM unnest($1::text[], $2::text[], $3::uuid[], $4::bigint[]) WITH ORDINALITY AS i (scope, key, claim_id, token, position)
), held AS MATERIALIZED (
  SELECT k.scope, k.key, i.position
  FROM input i
  JOIN :schema.idempotency_keys k ON k.scope = i.scope COLLATE "C" AND k.key = i.key COLLATE "C"
  WHERE k.claim_id = i.claim_id AND k.token = i.token AND k.state = 'running'
), free AS MATERIALIZED (
  SELECT k.scope, k.key
  FROM :schema.idempotency_keys k
  JOIN held h ON k.scope = h.scope AND k.key = h.key
  FOR UPDATE OF k SKIP LOCKED
), extended AS (
  UPDATE :schema.idempotency_keys k
  SET lease_until = :schema.idempotency_now() + $5::float8 * interval '1 millisecond'
  FROM free f, input i
  WHERE k.scope = f.scope AND k.key = f.key AND i.scope = k.scope AND i.key = k.key
    AND k.claim_id = i.claim_id AND k.token = i.token AND k.state = 'running'
  RETURNING k.key
)
SELECT h.position::int AS slot FROM held h
