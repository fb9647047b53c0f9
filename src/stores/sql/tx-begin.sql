-- tx-begin: the limits of a transaction route's transaction, all local to it.
-- Parameters: $1 time limit in ms, as text
-- Leases do not reach an uncommitted claim; these end it where its process hangs or its network is gone. Durability is
-- raised where somebody lowered it and never lowered (remote_apply stays).
SELECT set_config('idle_in_transaction_session_timeout', $1, true),
  set_config('statement_timeout', $1, true),
  set_config('lock_timeout', $1, true),
  CASE WHEN current_setting('server_version_num')::int >= 170000 THEN set_config('transaction_timeout', $1, true) END,
  set_config('tcp_keepalives_idle', '10', true),
  set_config('tcp_keepalives_interval', '5', true),
  set_config('tcp_keepalives_count', '3', true),
  CASE WHEN current_setting('synchronous_commit') IN ('off', 'local', 'remote_write')
    THEN set_config('synchronous_commit', 'on', true) END
