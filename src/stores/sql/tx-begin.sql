-- tx-begin: the limits of a transaction route's transaction, and its claim.
-- Parameters: $1 time limit in ms, as text  $2 scope, $3 key and $4 lock hash bigint, as text, of a claim that is written with
--   its response (see tx-store.sql); nulls otherwise
-- Rows: one; `token` for the claim that was made, null where there is none: the lock is not granted, or the key exists; read it with
--   find.sql, in a new statement, where nothing found means held.
-- Locks: the key's transaction-level advisory lock; never waits. The key is looked for when it is granted, with a snapshot that
--   shows whatever its last holder has committed, in READ COMMITTED and there alone. Who only finds a key holds the lock until
--   its rollback: that turns away claims of a key that nobody can claim, and at worst a take-over, which a retry repeats.
-- Leases do not reach an uncommitted claim; the limits end it where its process hangs or its network is gone. They are local to
-- the transaction. Keepalives stay with the connection, since setting and restoring them is six calls to the system each time;
-- sockets of the file system have none. Durability is raised where somebody lowered it and never lowered (remote_apply stays).
SELECT CASE WHEN pg_try_advisory_xact_lock($4::text::bigint) THEN
    CASE WHEN NOT :schema.idempotency_key_exists($2::text, $3::text) THEN nextval(':schema.idempotency_token_seq')::text END
  END AS token,
  set_config('idle_in_transaction_session_timeout', $1, true),
  set_config('statement_timeout', $1, true),
  CASE WHEN current_setting('server_version_num')::int >= 170000 THEN set_config('transaction_timeout', $1, true) END,
  CASE WHEN current_setting('tcp_keepalives_idle') NOT IN ('0', '10') THEN set_config('tcp_keepalives_idle', '10', false) END,
  CASE WHEN current_setting('tcp_keepalives_interval') NOT IN ('0', '5') THEN set_config('tcp_keepalives_interval', '5', false) END,
  CASE WHEN current_setting('tcp_keepalives_count') NOT IN ('0', '3') THEN set_config('tcp_keepalives_count', '3', false) END,
  CASE WHEN current_setting('synchronous_commit') IN ('off', 'local', 'remote_write')
    THEN set_config('synchronous_commit', 'on', true) END
