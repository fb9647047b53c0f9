-- tx-guard: make COMMIT fail until tx-unguard.sql.
-- Parameters: none.
-- Rows: none.
-- Locks: none. COMMIT reads what is left of a cursor WITH HOLD, and this one has nothing but an error (migration 0008). So a COMMIT
--   that a handler slips past the driver commits nothing, and PREPARE TRANSACTION is refused. A savepoint that is rolled back
--   leaves the cursor; ROLLBACK takes it along.
DECLARE oncekey_uncommitted NO SCROLL CURSOR WITH HOLD FOR SELECT :schema.idempotency_refuse_commit()
