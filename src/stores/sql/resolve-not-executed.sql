-- resolve-not-executed: settle an unknown outcome by saying that nothing came of it.
-- Parameters: $1 scope  $2 key  $3 observed token bigint  $4 by  $5 why
-- Rows: one when settled; none when the key is not as observed, or its holder lives.
-- Locks: the row. A process that comes back later finds its claim gone, and can store nothing.
-- The key is given back. A steps request with finished steps stays instead: what was not executed is the call that nobody knew
-- of, and without the recovery points the steps before it would be done again. It is due at once, and goes on with that call.
WITH target AS MATERIALIZED (
  SELECT k.scope, k.key, k.claim_id, k.token,
    EXISTS (
      SELECT FROM :schema.idempotency_steps s WHERE s.scope = k.scope AND s.key = k.key AND s.state = 'done'
    ) AS goes_on
  FROM :schema.idempotency_keys k
  WHERE k.scope = $1 COLLATE "C" AND k.key = $2 COLLATE "C" AND k.token = $3
    AND (k.state = 'running' AND k.lease_until <= :schema.idempotency_now()
      OR k.state = 'parked' AND k.next_attempt_at IS NULL)
  FOR UPDATE SKIP LOCKED
), given_back AS (
  DELETE FROM :schema.idempotency_keys k
  USING target t
  WHERE k.scope = t.scope AND k.key = t.key AND NOT t.goes_on
), withdrawn AS (
  DELETE FROM :schema.idempotency_steps s
  USING target t
  WHERE s.scope = t.scope AND s.key = t.key AND t.goes_on AND s.state = 'intended'
), due AS (
  UPDATE :schema.idempotency_keys k
  SET state = 'parked', claim_id = gen_random_uuid(), token = nextval(':schema.idempotency_token_seq'), lease_until = NULL,
    next_attempt_at = :schema.idempotency_now(), attempt = 1, failures = 0
  FROM target t
  WHERE k.scope = t.scope AND k.key = t.key AND t.goes_on
)
INSERT INTO :schema.idempotency_settlements (scope, key, claim_id, token, outcome, settled_by, why, settled_at)
SELECT scope, key, claim_id, token, 'not_executed', $4, $5, :schema.idempotency_now() FROM target
RETURNING token
