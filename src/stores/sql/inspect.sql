-- inspect: read all that is known of a key, for operators.
-- Parameters: $1 scope  $2 key  $3 whether to read the body
-- Rows: one, or none when there is no such key. The body is null unless asked for; its size is always there.
-- Locks: none. Hashes and the request of a steps route are not read: nobody has to see them.
SELECT k.state, k.guarantee, k.claim_id, k.token, k.attempt, k.lease_until, k.next_attempt_at, k.method, k.path, k.request_id,
  k.not_stored, k.status, k.head, octet_length(k.body) AS body_bytes, CASE WHEN $3::boolean THEN k.body END AS body,
  k.created_at, k.completed_at, k.replay_until, k.dedupe_until, k.handler, k.failures, k.last_error,
  :schema.idempotency_now() AS now
FROM :schema.idempotency_keys k
WHERE k.scope = $1 COLLATE "C" AND k.key = $2 COLLATE "C"
