-- inspect: read all that is known of a key, for operators.
-- Parameters: $1 scope  $2 key  $3 whether to read the body
-- Rows: one, or none when there is no such key. The body is null unless asked for; its size is always there.
-- Locks: none. Hashes and the request of a steps route are not read: nobody has to see them.
SELECT k.state, k.guarantee, k.claim_id, k.token, k.attempt, k.method, k.path, k.request_id, k.not_stored, k.status,
  k.head, octet_length(k.body) AS body_bytes, CASE WHEN $3::boolean THEN encode(k.body, 'base64') END AS body, k.handler,
  k.failures, k.last_error,
  floor(extract(epoch FROM k.lease_until) * 1000)::float8 AS lease_until_ms,
  floor(extract(epoch FROM k.next_attempt_at) * 1000)::float8 AS next_attempt_at_ms,
  floor(extract(epoch FROM k.created_at) * 1000)::float8 AS created_at_ms,
  floor(extract(epoch FROM k.completed_at) * 1000)::float8 AS completed_at_ms,
  floor(extract(epoch FROM k.replay_until) * 1000)::float8 AS replay_until_ms,
  floor(extract(epoch FROM k.dedupe_until) * 1000)::float8 AS dedupe_until_ms,
  floor(extract(epoch FROM :schema.idempotency_now()) * 1000)::float8 AS now_ms
FROM :schema.idempotency_keys k
WHERE k.scope = $1 COLLATE "C" AND k.key = $2 COLLATE "C"
