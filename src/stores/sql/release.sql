-- release: give running keys back as if they had never been sent.
-- Parameters, arrays of one length, sorted by (scope, key): $1 scope text[]  $2 key text[]  $3 claim id uuid[]
--   $4 token bigint[]
-- Rows: one `slot` for each key given back; a slot without a row is lost.
-- Locks: the rows. Completed keys are never matched, so no cached response can outlive its row.
DELETE FROM :schema.idempotency_keys k
USING unnest($1::text[], $2::text[], $3::uuid[], $4::bigint[]) WITH ORDINALITY AS i (scope, key, claim_id, token, position)
WHERE k.scope = i.scope COLLATE "C" AND k.key = i.key COLLATE "C"
  AND k.claim_id = i.claim_id AND k.token = i.token AND k.state = 'running'
RETURNING i.position::int AS slot
