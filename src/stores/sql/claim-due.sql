-- claim-due: claim steps requests that nobody works on.
-- Parameters: $1 handlers text[]  $2 claim ids uuid[], as many as may be claimed  $3 lease in ms float8
-- Rows: one for each claimed request, with what is read of it (see rows.ts).
-- Locks: the rows, skipping locked ones: several completers share the work, and a locked row belongs to a living process.
WITH due AS MATERIALIZED (
  SELECT k.scope, k.key
  FROM :schema.idempotency_keys k
  WHERE k.guarantee = 'steps' AND k.state IN ('running', 'parked') AND k.handler = ANY ($1::text[])
    -- The clock is volatile; only as a subquery it is read once and can bound an index scan.
    AND coalesce(k.lease_until, k.next_attempt_at) <= (SELECT :schema.idempotency_now())
  ORDER BY coalesce(k.lease_until, k.next_attempt_at)
  LIMIT cardinality($2::uuid[])
  FOR UPDATE SKIP LOCKED
), numbered AS (
  SELECT scope, key, row_number() OVER () AS position FROM due
)
UPDATE :schema.idempotency_keys k
SET state = 'running', claim_id = ($2::uuid[])[n.position], token = nextval(':schema.idempotency_token_seq'),
  attempt = k.attempt + 1, lease_until = :schema.idempotency_now() + $3::float8 * interval '1 millisecond',
  next_attempt_at = NULL
FROM numbered n
WHERE k.scope = n.scope AND k.key = n.key
RETURNING :record(k)
