-- resolve-completed: settle an unknown outcome with a response.
-- Parameters: $1 scope  $2 key  $3 observed token bigint  $4 status smallint  $5 head (json)  $6 body bytea
--   $7 replay window in ms float8  $8 dedupe window in ms float8  $9 by  $10 why
-- Rows: one when settled; none when the key is not as observed, or its holder lives.
-- Locks: the row. Only what is abandoned or set aside is matched, so a completed response is never changed.
-- Claim id and token change: the late completion of a frozen holder must find its claim lost, and not take this response
-- for its own.
WITH target AS MATERIALIZED (
  SELECT k.scope, k.key, k.claim_id, k.token
  FROM :schema.idempotency_keys k
  WHERE k.scope = $1 COLLATE "C" AND k.key = $2 COLLATE "C" AND k.token = $3
    AND (k.state = 'running' AND k.lease_until <= :schema.idempotency_now()
      OR k.state = 'parked' AND k.next_attempt_at IS NULL)
  FOR UPDATE SKIP LOCKED
), settled AS (
  UPDATE :schema.idempotency_keys k
  SET state = 'completed', claim_id = gen_random_uuid(), token = nextval(':schema.idempotency_token_seq'),
    lease_until = NULL, next_attempt_at = NULL, not_stored = false, status = $4, head = $5::json, body = $6,
    request = NULL, completed_at = c.now, replay_until = c.now + $7::float8 * interval '1 millisecond',
    dedupe_until = c.now + $8::float8 * interval '1 millisecond', reap_at = c.now + $7::float8 * interval '1 millisecond'
  FROM target t, (SELECT :schema.idempotency_now() AS now) c
  WHERE k.scope = t.scope AND k.key = t.key
)
INSERT INTO :schema.idempotency_settlements (scope, key, claim_id, token, outcome, settled_by, why, settled_at)
SELECT scope, key, claim_id, token, 'completed', $9, $10, :schema.idempotency_now() FROM target
RETURNING token
