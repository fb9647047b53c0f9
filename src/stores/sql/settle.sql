-- settle: wait for whatever transaction holds a key. Run inside a transaction that is rolled back.
-- Parameters: $1 lock hash bigint, as text
-- Rows: one.
-- Locks: the key's transaction-level advisory lock, which every claim takes before it writes, and holds to the end of its
--   transaction: the one in doubt is over when it is granted here, whether or not it had written its row by then, and the next
--   statement's snapshot shows what it committed. Waits as long as statement_timeout says.
SELECT pg_advisory_xact_lock($1::text::bigint)
