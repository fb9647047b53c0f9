-- tx-begin: the limits of a transaction route's transaction.
-- Parameters: $1 time limit in ms, as text
-- Leases do not reach an uncommitted claim; these end it where its process hangs or its network is gone. The limits are local to
-- the transaction. Keepalives stay with the connection, since setting and restoring them is six calls to the system each time;
-- sockets of the file system have none. Durability is raised where somebody lowered it and never lowered (remote_apply stays).
SELECT set_config('idle_in_transaction_session_timeout', $1, true),
  set_config('statement_timeout', $1, true),
  CASE WHEN current_setting('server_version_num')::int >= 170000 THEN set_config('transaction_timeout', $1, true) END,
  CASE WHEN current_setting('tcp_keepalives_idle') NOT IN ('0', '10') THEN set_config('tcp_keepalives_idle', '10', false) END,
  CASE WHEN current_setting('tcp_keepalives_interval') NOT IN ('0', '5') THEN set_config('tcp_keepalives_interval', '5', false) END,
  CASE WHEN current_setting('tcp_keepalives_count') NOT IN ('0', '3') THEN set_config('tcp_keepalives_count', '3', false) END,
  CASE WHEN current_setting('synchronous_commit') IN ('off', 'local', 'remote_write')
    THEN set_config('synchronous_commit', 'on', true) END
