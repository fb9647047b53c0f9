-- steps-save: store a recovery point of a running claim.
-- Parameters: $1 scope  $2 key  $3 claim id uuid  $4 token bigint  $5 position  $6 name  $7 kind  $8 state
--   $9 result (json), null for an intention
-- Rows: one when stored, also where it was stored already by this claim (its reply was lost); none when the claim is lost.
-- Locks: the key's row, shared (see steps-lock). A process whose claim was taken over finds no row and writes nothing.
WITH held AS MATERIALIZED (
  SELECT k.scope, k.key, k.token
  FROM :schema.idempotency_keys k
  WHERE k.scope = $1 COLLATE "C" AND k.key = $2 COLLATE "C" AND k.claim_id = $3 AND k.token = $4 AND k.state = 'running'
  FOR SHARE
)
INSERT INTO :schema.idempotency_steps AS s (scope, key, position, name, kind, state, result, token, recorded_at)
SELECT scope, key, $5, $6, $7, $8, $9::json, token, :schema.idempotency_now() FROM held
ON CONFLICT (scope, key, position) DO UPDATE
SET state = excluded.state, result = excluded.result, token = excluded.token, recorded_at = excluded.recorded_at
WHERE s.name = excluded.name AND s.kind = excluded.kind AND (s.state = 'intended' OR s.token = excluded.token)
RETURNING s.position
