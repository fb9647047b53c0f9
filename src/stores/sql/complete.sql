-- complete: store the responses of running claims.
-- Parameters, arrays of one length, each key at most once, sorted by (scope, key):
--   $1 scope text[]  $2 key text[]  $3 claim id uuid[]  $4 token bigint[]  $5 not stored boolean[]  $6 status smallint[]
--   $7 head text[] (json)  $8 body bytea[]  $9 replay window in ms float8[]  $10 dedupe window in ms float8[]
--   $11 wait hash bigint[];  $12 limit of waiting for a row, as of lock_timeout
-- Rows: one for each completion that was made now, with 1 in `awaited` where some process waits for the key (see watch.sql), and
--   the end of its replay window in ms since 1970. A slot without a row is lost, or was completed before by this very write
--   whose reply was lost; read it with find.sql, in a new statement.
-- Locks: the rows, in the order given, and their wait hashes, which never waits. An UPDATE and never an upsert, by key, claim id
--   and token, so no old claim can write. The lease is not asked: a frozen process may complete late as long as nobody took over.
--   A row that somebody else has locked is waited for as long as the limit says, and then all fails with lock_not_available: it
--   must not hold up the other keys of its batch. Set here, the limit costs no round trip and is gone with the statement.
-- Plan: one look at the primary key for each key.
WITH input AS MATERIALIZED (
  SELECT i.*
  FROM unnest($1::text[], $2::text[], $3::uuid[], $4::bigint[], $5::boolean[], $6::smallint[], $7::text[], $8::bytea[],
    $9::float8[], $10::float8[], $11::bigint[])
    WITH ORDINALITY AS i (scope, key, claim_id, token, not_stored, status, head, body, replay_ms, dedupe_ms, wait_hash, position)
), clock AS MATERIALIZED (
  SELECT :schema.idempotency_now() AS now, set_config('lock_timeout', $12, true)
)
UPDATE :schema.idempotency_keys k
SET state = 'completed', lease_until = NULL, not_stored = i.not_stored, status = i.status, head = i.head::json,
  body = i.body, request = NULL, completed_at = c.now,
  replay_until = c.now + i.replay_ms * interval '1 millisecond',
  dedupe_until = c.now + i.dedupe_ms * interval '1 millisecond',
  reap_at = c.now + i.replay_ms * interval '1 millisecond'
FROM input i, clock c
WHERE k.scope = i.scope COLLATE "C" AND k.key = i.key COLLATE "C"
  AND k.claim_id = i.claim_id AND k.token = i.token AND k.state = 'running'
RETURNING i.position::int AS slot, (NOT pg_try_advisory_xact_lock(i.wait_hash))::int AS awaited,
  floor(extract(epoch FROM k.replay_until) * 1000)::text AS replay_until_ms
